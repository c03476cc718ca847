-- All the exactly-once protocol knows of a lane is one row here.
CREATE TABLE lanes (
    processor        text        NOT NULL,
    -- Unprefixed topic name.
    topic            text        NOT NULL,
    partition        integer     NOT NULL CHECK (partition >= 0),
    -- The fence: whoever took the lane last holds the highest.
    epoch            bigint      NOT NULL DEFAULT 0,
    -- Which log next_offset belongs to; changes only when an operator moves the lane.
    generation       bigint      NOT NULL DEFAULT 0,
    -- The cursor: offset of the next record to apply.
    next_offset      bigint      NOT NULL CHECK (next_offset >= 0),
    -- Per source the last sequence applied.
    watermarks       bytea       NOT NULL DEFAULT '',
    -- The messages of the last batch, compressed.
    outbox           bytea       NOT NULL DEFAULT '',
    -- Of the topic, when the rows were made.
    partition_count  integer     NOT NULL CHECK (partition < partition_count),
    -- Time and hash of the record before the cursor; none before the first batch.
    last_record_at   timestamptz,
    last_record_hash bigint,
    updated_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (processor, topic, partition),
    CHECK ((last_record_at IS NULL) = (last_record_hash IS NULL))
) WITH (
    -- A few rows that change hundreds of times a second: room for their next versions beside them
    -- (no index changes, so old versions are pruned in passing), and vacuum as soon as it may,
    -- without giving pages back, for which it would have to lock everyone out.
    fillfactor = 10,
    autovacuum_vacuum_threshold = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_threshold = 100000,
    vacuum_truncate = false,
    toast.autovacuum_vacuum_threshold = 50,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_cost_delay = 0,
    toast.vacuum_truncate = false
);

-- Compressed already.
ALTER TABLE lanes ALTER COLUMN outbox SET STORAGE EXTERNAL;

-- Makes the lanes of a processor that meets a topic for the first time, one per partition from the
-- offset given. Does nothing when there is any row of them; gives how many it made.
CREATE FUNCTION lanes_create(p_processor text, p_topic text, p_earliest bigint[]) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    made integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('lanes/' || p_processor || '/' || p_topic, 0));
    INSERT INTO lanes (processor, topic, partition, next_offset, partition_count)
    SELECT p_processor, p_topic, (e.place - 1)::integer, e.earliest, cardinality(p_earliest)
    FROM unnest(p_earliest) WITH ORDINALITY AS e (earliest, place)
    WHERE NOT EXISTS (SELECT FROM lanes WHERE processor = p_processor AND topic = p_topic);
    GET DIAGNOSTICS made = ROW_COUNT;
    RETURN made;
END $$;

-- Moves every lane named, or raises BM001 with the refused partitions as its detail (comma-separated).
-- A lane moves only if epoch and cursor are the expected ones. Gives how many lanes moved.
--
-- Each statement of the function sees what was committed before it began, so what is checked after
-- the locks are held is what is there.
CREATE FUNCTION lanes_advance(
    p_processor  text,
    p_topic      text,
    p_partitions integer[],
    p_epochs     bigint[],
    p_expected   bigint[],
    p_next       bigint[],
    p_watermarks bytea[],
    p_outboxes   bytea[],
    p_last_at    timestamptz[],
    p_last_hash  bigint[]
) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    refused text;
    moved   integer;
BEGIN
    PERFORM FROM lanes
    WHERE processor = p_processor AND topic = p_topic AND partition = ANY (p_partitions)
    ORDER BY partition
    FOR UPDATE;

    SELECT string_agg(m.partition::text, ',' ORDER BY m.partition) INTO refused
    FROM unnest(p_partitions, p_epochs, p_expected) AS m (partition, epoch, expected)
    WHERE NOT EXISTS (
        SELECT FROM lanes AS l
        WHERE l.processor = p_processor AND l.topic = p_topic AND l.partition = m.partition
          AND l.epoch = m.epoch AND l.next_offset = m.expected
    );
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'lanes of % on % were taken by someone else', p_processor, p_topic
            USING ERRCODE = 'BM001', DETAIL = refused;
    END IF;

    UPDATE lanes AS l
    SET next_offset = m.next_offset,
        watermarks = m.watermarks,
        outbox = m.outbox,
        last_record_at = m.last_at,
        last_record_hash = m.last_hash,
        updated_at = now()
    FROM unnest(p_partitions, p_next, p_watermarks, p_outboxes, p_last_at, p_last_hash)
        AS m (partition, next_offset, watermarks, outbox, last_at, last_hash)
    WHERE l.processor = p_processor AND l.topic = p_topic AND l.partition = m.partition;
    GET DIAGNOSTICS moved = ROW_COUNT;
    -- A partition named twice would move once: the caller is broken, and nothing may be written.
    IF moved <> cardinality(p_partitions) THEN
        RAISE EXCEPTION 'asked to move % lanes of % on %, found %',
            cardinality(p_partitions), p_processor, p_topic, moved;
    END IF;
    RETURN moved;
END $$;
