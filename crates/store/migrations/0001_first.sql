-- One schema for SQLite and PostgreSQL. Times are microseconds since 1970; JSON is text.
CREATE TABLE projects (
    name TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    -- Versions count up and are never reused, also after the newest model was deleted.
    last_model_version BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE datasets (
    project TEXT NOT NULL REFERENCES projects (name),
    kind TEXT NOT NULL CHECK (kind IN ('train', 'test')),
    status TEXT NOT NULL,
    status_message TEXT NOT NULL,
    source TEXT NOT NULL,
    -- The id that the next new entry gets.
    next_entry BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (project, kind)
);
CREATE TABLE entries (
    project TEXT NOT NULL,
    kind TEXT NOT NULL,
    id BIGINT NOT NULL,
    source_ref TEXT NOT NULL,
    line TEXT NOT NULL,
    -- '' while nobody has said.
    class TEXT NOT NULL CHECK (class IN ('', 'normal', 'anomaly')),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project, kind, id),
    UNIQUE (project, kind, source_ref),
    FOREIGN KEY (project, kind) REFERENCES datasets (project, kind) ON DELETE CASCADE
);
CREATE INDEX entries_class ON entries (project, kind, class);
CREATE TABLE models (
    project TEXT NOT NULL REFERENCES projects (name),
    version BIGINT NOT NULL,
    status TEXT NOT NULL,
    status_message TEXT NOT NULL,
    description TEXT,
    created_at BIGINT NOT NULL,
    output_bucket TEXT NOT NULL,
    output_prefix TEXT,
    kms_key TEXT,
    -- Performance and evaluation, as JSON, once it was trained.
    evaluation TEXT,
    min_units BIGINT,
    max_units BIGINT,
    PRIMARY KEY (project, version)
);
CREATE TABLE packaging_jobs (
    project TEXT NOT NULL REFERENCES projects (name),
    name TEXT NOT NULL,
    model_version BIGINT NOT NULL,
    description TEXT,
    configuration TEXT NOT NULL,
    output TEXT,
    status TEXT NOT NULL,
    status_message TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (project, name)
);
CREATE TABLE tags (
    arn TEXT NOT NULL,
    tag_key TEXT NOT NULL,
    tag_value TEXT NOT NULL,
    PRIMARY KEY (arn, tag_key)
);
CREATE TABLE tokens (
    operation TEXT NOT NULL,
    token TEXT NOT NULL,
    request_sha256 TEXT NOT NULL,
    subject TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (operation, token)
);
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    -- Which of the workers does it.
    lane TEXT NOT NULL,
    project TEXT NOT NULL,
    subject TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running')),
    attempts BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL
);
CREATE INDEX jobs_waiting ON jobs (lane, state, created_at);
