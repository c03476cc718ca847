-- Every event once: the ledger, the archive and the dedupe table in one.
--
-- Partitioned by day (UTC) of the event's own timestamp. There is no default partition: an event
-- whose day is missing pauses its lane until the partition is made, and is never lost or misplaced.
CREATE TABLE events_raw (
    -- 16 bytes of SHA-256 over studio, game, player, eventId.
    event_key      bytea        NOT NULL CHECK (octet_length(event_key) = 16),
    -- The event's own timestamp.
    occurred_at    timestamptz  NOT NULL,
    -- Tells a retry from another event under the same id.
    body_hash      bytea        NOT NULL CHECK (octet_length(body_hash) = 16),
    event_id       varchar(50)  NOT NULL,
    studio_id      varchar(50)  NOT NULL,
    game_id        varchar(100) NOT NULL,
    user_id        varchar(255) NOT NULL,
    event_type     varchar(50)  NOT NULL,
    event_name     varchar(50),
    -- The studio's tier when the event was accepted.
    studio_tier    text         NOT NULL,
    -- The event's metadata.
    event_data     jsonb,
    -- Top-level fields that are kept without being known.
    extra          jsonb,
    -- When the broker appended it to game.events.
    ingested_at    timestamptz  NOT NULL,
    -- Its place in game.events.
    log_partition  integer      NOT NULL,
    log_offset     bigint       NOT NULL,
    -- The definitions that count for it: the newest versions not above this.
    config_seq     bigint       NOT NULL,
    correlation_id text,
    created_at     timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (event_key, occurred_at)
) PARTITION BY RANGE (occurred_at);

-- Each index costs on every event; these serve documented reads.
CREATE INDEX events_raw_player_idx ON events_raw (studio_id, game_id, user_id, occurred_at);
CREATE INDEX events_raw_time_idx ON events_raw (studio_id, game_id, occurred_at);
-- Replay reads windows of offsets. Offsets grow with the table, so a few bytes per block range will do.
CREATE INDEX events_raw_log_idx ON events_raw USING brin (log_offset) WITH (pages_per_range = 32, autosummarize = on);

-- Makes the partitions of the days first_day to last_day that are missing; gives how many it made.
-- Any number of callers may run at once. CREATE TABLE … PARTITION OF would stop all inserts while
-- it waits for its lock on the parent; ATTACH PARTITION does not.
CREATE FUNCTION events_raw_ensure_partitions(first_day date, last_day date) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    day       date;
    partition text;
    made      integer := 0;
    missing   date[];
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('events_raw_ensure_partitions', 0));
    SELECT array_agg(d::date ORDER BY d) INTO missing
    FROM generate_series(first_day::timestamp, last_day::timestamp, interval '1 day') AS d
    WHERE NOT EXISTS (
        SELECT FROM pg_inherits
        WHERE inhparent = 'events_raw'::regclass
          AND inhrelid = to_regclass('events_raw_p' || to_char(d, 'YYYYMMDD'))
    );
    FOREACH day IN ARRAY coalesce(missing, '{}') LOOP
        partition := 'events_raw_p' || to_char(day, 'YYYYMMDD');
        EXECUTE format('CREATE TABLE %I (LIKE events_raw INCLUDING ALL)', partition);
        EXECUTE format(
            'ALTER TABLE events_raw ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            partition, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00'
        );
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
