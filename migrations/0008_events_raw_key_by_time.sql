-- Keys are hashes: led by them, each event of a batch went to a page of the index of its own, read from
-- disk once a day's index is larger than memory, and written whole to the log after every checkpoint. Led
-- by time, those that come together lie together. The router looks for time and key as one.
--
-- Readers and writers wait while existing days are read once: a second per million events, about. Where
-- there are many, plan for it.
ALTER TABLE events_raw
    DROP CONSTRAINT events_raw_pkey,
    ADD PRIMARY KEY (occurred_at, event_key);
