-- What players have reached. Each row has one writer: the lane of its player.

CREATE TABLE quest_progress (
    quest_id        uuid         NOT NULL REFERENCES quests (id),
    user_id         varchar(255) NOT NULL,
    -- Which turn of a repeating quest; empty for one that does not repeat.
    period          varchar(40)  NOT NULL DEFAULT '',
    studio_id       varchar(50)  NOT NULL,
    -- {"current", "target"}, and "items" for quests that count distinct values.
    progress        jsonb        NOT NULL,
    completed       boolean      NOT NULL DEFAULT false,
    completed_at    timestamptz,
    rewards_claimed boolean      NOT NULL DEFAULT false,
    -- Grows with every change; ui.updates carries it.
    version         bigint       NOT NULL,
    last_updated    timestamptz  NOT NULL,
    PRIMARY KEY (quest_id, user_id, period),
    CHECK (completed = (completed_at IS NOT NULL))
) WITH (fillfactor = 80);

CREATE TABLE leaderboard_entries (
    leaderboard_id uuid         NOT NULL REFERENCES leaderboards (id),
    -- Which period of a board that resets; empty for one that does not.
    period         varchar(40)  NOT NULL DEFAULT '',
    user_id        varchar(255) NOT NULL,
    studio_id      varchar(50)  NOT NULL,
    score          numeric      NOT NULL,
    -- Only in closed periods.
    rank           integer,
    metadata       jsonb        NOT NULL DEFAULT '{}',
    last_updated   timestamptz  NOT NULL,
    PRIMARY KEY (leaderboard_id, period, user_id)
) WITH (fillfactor = 80);
