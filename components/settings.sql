-- Creates the table of the live settings, which configuration.postgresql reads (shared/settings.yaml), and
-- sets a timeout for abandoned transactions. The file can run again at any time:
--   psql "$DSN" -f components/settings.sql
-- Each row is a change. The row of a key with the greatest version is in force, and no row is overwritten. To
-- set a key by hand, where `annals config` cannot be used:
--   SELECT annals_set('command.read_only', 'true', 'grace', 'the database moves');
--   SELECT annals_set('command.read_only', NULL, 'grace', 'it has moved');

-- The component expects exactly these four columns in this order, with text only. A null, or a value in the
-- metadata that is not text, makes every read fail (components-contrib 1.18,
-- configuration/postgres/postgres.go, Get).
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

-- A notification only names the key that changed, as a hint to read it. With the whole row it could exceed
-- PostgreSQL's limit, and with a null or a number in it, it would crash the sidecar (handleSubscribedChange).
CREATE OR REPLACE FUNCTION annals_settings_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('annals_settings', json_build_object('data',
        json_build_object('key', coalesce(NEW.key, OLD.key), 'value', '', 'version', ''))::text);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER annals_settings_changed
    AFTER INSERT OR UPDATE OR DELETE ON annals_settings
    FOR EACH ROW EXECUTE FUNCTION annals_settings_changed();

-- Sets a key, or unsets it if the value is null, and returns the new version. Of two concurrent changes of a
-- key, the primary key refuses the later one.
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

-- A sidecar that vanishes in the middle of a transaction (power failure, network cut) leaves it open.
-- Everybody who writes the same keys then waits until PostgreSQL's host gives up the connection, by default
-- after two hours. The timeout ends the transaction earlier. That is safe: Dapr sends the statements of a
-- transaction without a pause, and a transaction that is ended like this is sent again as a whole. A timeout
-- that is set already stays.
DO $$ BEGIN
    IF current_setting('idle_in_transaction_session_timeout') = '0' THEN
        EXECUTE format('ALTER DATABASE %I SET idle_in_transaction_session_timeout = ''10s''', current_database());
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'set idle_in_transaction_session_timeout of this database to 10s: its owner may';
END $$;
