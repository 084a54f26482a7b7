-- The table of the live settings, for configuration.postgresql: settings.yaml; and, at the end, what the database
-- does with a transaction that nobody goes on with. It may run again at any time:
--   psql "$DSN" -f components/settings.sql
-- A row is a change: of the rows of a key the one with the greatest version holds, and none is
-- overwritten. To set one by hand, where `annals config` cannot be used:
--   SELECT annals_set('command.read_only', 'true', 'grace', 'the database moves');
--   SELECT annals_set('command.read_only', NULL, 'grace', 'it has moved');

-- The component takes exactly these four columns in this order, and texts only: a null, or metadata that
-- is no text, fails every read (components-contrib 1.18, configuration/postgres/postgres.go, Get).
CREATE TABLE IF NOT EXISTS annals_settings (
    key varchar NOT NULL CHECK (key ~ '^[a-z0-9_]+\.[a-z0-9_]+$'),
    value varchar NOT NULL,
    version varchar NOT NULL CHECK (version ~ '^[0-9]{1,9}$'),
    metadata jsonb NOT NULL DEFAULT '{}' CHECK (
        jsonb_typeof(metadata) = 'object'
        AND NOT jsonb_path_exists(metadata, '$.* ? (@.type() != "string")', silent => true)
    ),
    PRIMARY KEY (key, version)
);

-- A notice says which key changed, and no more: it is a hint to read. One with the row in it could be too
-- long for PostgreSQL, and one with a null or a number would end the sidecar (handleSubscribedChange).
CREATE OR REPLACE FUNCTION annals_settings_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('annals_settings', json_build_object('data',
        json_build_object('key', coalesce(NEW.key, OLD.key), 'value', '', 'version', ''))::text);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER annals_settings_changed
    AFTER INSERT OR UPDATE OR DELETE ON annals_settings
    FOR EACH ROW EXECUTE FUNCTION annals_settings_changed();

-- Sets a key, or takes it back when the value is null; returns the version. Of two at the same time the
-- later is refused, by the primary key.
CREATE OR REPLACE FUNCTION annals_set(setting text, to_value text, who text, reason text) RETURNS text
LANGUAGE sql AS $$
    INSERT INTO annals_settings (key, value, version, metadata)
    SELECT setting, coalesce(to_value, ''), (coalesce(max(version::integer), 0) + 1)::text,
           jsonb_strip_nulls(jsonb_build_object(
               'by', who, 'why', reason,
               'at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
               'unset', CASE WHEN to_value IS NULL THEN 'true' END))
    FROM annals_settings WHERE key = setting
    RETURNING version
$$;

-- A sidecar that vanishes in the middle of a transaction (a node without power, a network that is cut) leaves it
-- open, and whoever writes the same keys waits until PostgreSQL's host gives the connection up: two hours. Dapr sends
-- the statements of a transaction right after one another, and one that was ended so is sent again as a whole.
-- What is set already stays.
DO $$ BEGIN
    IF current_setting('idle_in_transaction_session_timeout') = '0' THEN
        EXECUTE format('ALTER DATABASE %I SET idle_in_transaction_session_timeout = ''10s''', current_database());
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'set idle_in_transaction_session_timeout of this database to 10s: its owner may';
END $$;
