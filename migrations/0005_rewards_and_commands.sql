-- The reward ledger: one row per grant, however often the grant is emitted.
CREATE TABLE reward_grants (
    grant_id       text         PRIMARY KEY,
    studio_id      varchar(50)  NOT NULL,
    game_id        varchar(100) NOT NULL,
    user_id        varchar(255) NOT NULL,
    -- What granted it: quest_<questId>, tournament_…, battlepass_….
    source         varchar(150) NOT NULL,
    -- As the studio defined it.
    reward         jsonb        NOT NULL,
    status         varchar(20)  NOT NULL CHECK (status IN ('pending', 'delivered', 'acknowledged', 'failed')),
    -- Time of the event that earned it.
    earned_at      timestamptz  NOT NULL,
    correlation_id text,
    created_at     timestamptz  NOT NULL DEFAULT now(),
    updated_at     timestamptz  NOT NULL DEFAULT now()
);
CREATE INDEX reward_grants_player_idx ON reward_grants (studio_id, game_id, user_id, earned_at);

-- Results of commands (claims, joins, …). Any row means: applied before, skip.
CREATE TABLE commands (
    processor  text        NOT NULL,
    -- Partition key of whom the command concerns: a command that passes from one lane to another
    -- has a row with each.
    subject    text        NOT NULL,
    command_id text        NOT NULL,
    studio_id  varchar(50) NOT NULL,
    -- pending: another lane was asked.
    status     varchar(20) NOT NULL CHECK (status IN ('pending', 'done', 'refused')),
    result     jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (processor, subject, command_id)
);
-- The API knows only the command it sent.
CREATE INDEX commands_id_idx ON commands (command_id);
