-- Blocks of events_raw hold events of all partitions of game.events, whose offsets differ by their
-- traffic: the least and the greatest of a block range say nothing when one partition is far ahead.
-- Several intervals per range keep them apart.
--
-- Made before the old one goes, so that readers need not wait; writers do, while existing days are
-- read once. Partitions made later get it as they got the old one: LIKE events_raw INCLUDING ALL.
CREATE INDEX events_raw_log_position_idx ON events_raw
    USING brin (log_offset int8_minmax_multi_ops) WITH (pages_per_range = 32, autosummarize = on);
DROP INDEX events_raw_log_idx;
