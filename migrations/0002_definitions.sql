-- What studios configure: games, and definitions with all their versions.

-- A game belongs to exactly one studio.
CREATE TABLE games (
    id             uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    studio_id      varchar(50)  NOT NULL,
    game_id        varchar(100) NOT NULL UNIQUE,
    name           text         NOT NULL,
    webhook_url    text,
    webhook_secret text,
    metadata       jsonb        NOT NULL DEFAULT '{}',
    created_at     timestamptz  NOT NULL DEFAULT now(),
    updated_at     timestamptz  NOT NULL DEFAULT now(),
    -- Lets definitions refer to a game together with its studio.
    UNIQUE (studio_id, game_id)
);

-- Counts saves of definitions of every kind. Its row stays locked from the first save of a
-- transaction to the commit, so whoever reads n finds all saves up to n.
CREATE TABLE config_counter (
    id    boolean PRIMARY KEY DEFAULT true CHECK (id),
    value bigint  NOT NULL
);
INSERT INTO config_counter (value) VALUES (0);

-- The current version of each quest.
CREATE TABLE quests (
    id             uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    studio_id      varchar(50)  NOT NULL,
    game_id        varchar(100) NOT NULL,
    quest_id       varchar(100) NOT NULL,
    name           text         NOT NULL,
    description    text,
    conditions     jsonb        NOT NULL,
    rewards        jsonb        NOT NULL DEFAULT '[]',
    start_date     timestamptz,
    end_date       timestamptz,
    community_gate jsonb,
    status         varchar(20)  NOT NULL DEFAULT 'active',
    version        integer      NOT NULL CHECK (version > 0),
    config_seq     bigint       NOT NULL,
    created_at     timestamptz  NOT NULL DEFAULT now(),
    updated_at     timestamptz  NOT NULL DEFAULT now(),
    UNIQUE (game_id, quest_id),
    FOREIGN KEY (studio_id, game_id) REFERENCES games (studio_id, game_id)
);

-- Every version of each quest; rows are never changed. The one that counts for an event is the
-- newest whose config_seq is not above the event's.
CREATE TABLE quest_versions (
    quest_id   uuid        NOT NULL REFERENCES quests (id),
    version    integer     NOT NULL CHECK (version > 0),
    studio_id  varchar(50) NOT NULL,
    config_seq bigint      NOT NULL UNIQUE,
    status     varchar(20) NOT NULL,
    definition jsonb       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (quest_id, version)
);

CREATE TABLE leaderboards (
    id             uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    studio_id      varchar(50)  NOT NULL,
    game_id        varchar(100) NOT NULL,
    leaderboard_id varchar(100) NOT NULL,
    name           text         NOT NULL,
    scoring_type   varchar(20)  NOT NULL,
    reset_period   varchar(20)  NOT NULL DEFAULT 'never',
    formula        jsonb,
    community_gate jsonb,
    metadata       jsonb        NOT NULL DEFAULT '{}',
    created_at     timestamptz  NOT NULL DEFAULT now(),
    updated_at     timestamptz  NOT NULL DEFAULT now(),
    UNIQUE (game_id, leaderboard_id),
    FOREIGN KEY (studio_id, game_id) REFERENCES games (studio_id, game_id)
);

-- config.* messages of saves that are committed and not yet known to be published.
CREATE TABLE config_outbox (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    studio_id     varchar(50) NOT NULL,
    topic         text        NOT NULL,
    key           text        NOT NULL,
    value         bytea       NOT NULL,
    -- Until then one publisher has them for itself: two could append an older version last.
    claimed_until timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now()
);
