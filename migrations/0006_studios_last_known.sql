-- What was last known of all studios, so that gateways start while Firestore is away. One row.
-- Holds hashes of keys, never keys.
CREATE TABLE studios_last_known (
    id       boolean     PRIMARY KEY DEFAULT true CHECK (id),
    saved_at timestamptz NOT NULL,
    snapshot jsonb       NOT NULL
);
