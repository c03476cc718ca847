-- LATERAL … LIMIT 1 keeps the plan one index look-up per key, in the one partition its day names;
-- a join would be hashed over whole partitions while they are small.
SELECT k.place AS "place!", e.body_hash
FROM unnest($1::bytea[], $2::timestamptz[]) WITH ORDINALITY AS k (event_key, occurred_at, place)
CROSS JOIN LATERAL (
    SELECT body_hash FROM events_raw AS r
    WHERE r.event_key = k.event_key AND r.occurred_at = k.occurred_at
    LIMIT 1
) AS e
