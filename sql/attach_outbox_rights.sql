-- Who may attach a table, see what was put aside, and retry it; and as whom a mapping runs.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_attacher;
CREATE ROLE regress_member IN ROLE regress_attacher;
CREATE ROLE regress_inserter;
CREATE ROLE regress_monitor IN ROLE pg_read_all_stats;
CREATE SCHEMA attach_rights;
GRANT ALL ON SCHEMA attach_rights TO PUBLIC;
SET search_path = attach_rights;
\set VERBOSITY default
SET ROLE regress_attacher;
CREATE TABLE t (id text, who text, body text);
GRANT INSERT ON t TO PUBLIC;
CREATE FUNCTION attach() RETURNS bigint LANGUAGE sql AS $$ SELECT cqrs.attach_outbox('t', 's', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "who",
	"event_type": "attach_rights.as_whom(id)", "payload": "body"}') $$;
CREATE FUNCTION as_whom(id text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN current_user || ', ' || current_setting('IntervalStyle'); END $$;
SET IntervalStyle = 'iso_8601';
-- the table is not enough: the source's name is at stake
SELECT attach();
RESET ROLE;
SELECT cqrs.grant_publish('regress_attacher');
SET ROLE regress_attacher;
SELECT attach();
RESET ROLE;
GRANT INSERT (source) ON cqrs.outbox TO regress_attacher;
-- nor is that enough without the table
GRANT INSERT ON cqrs.outbox TO regress_inserter;
SET ROLE regress_inserter;
SELECT attach();
SET ROLE regress_attacher;
SELECT attach();
-- whoever inserts: the mapping runs as the table's owner, with the settings of when it was attached
RESET ROLE;
SET IntervalStyle = 'postgres';
INSERT INTO t VALUES ('1', 'a', '{}');
SET ROLE regress_inserter;
INSERT INTO t VALUES ('2', 'a', '{}'), ('3', 'b', 'oops');
RESET ROLE;
SELECT source, event_type FROM cqrs.outbox ORDER BY position;
-- triggers that somebody has put on the outbox run as the table's owner, too, not as whose right it is to insert into it,
-- and get no further, neither at once nor at commit
GRANT TRIGGER ON cqrs.outbox TO regress_inserter;
SET ROLE regress_inserter;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	RAISE NOTICE '% % as %, %', tg_when, tg_level, current_user, current_setting('IntervalStyle');
	RETURN new;
END $$;
CREATE FUNCTION escape() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; RETURN NULL; END $$;
CREATE TRIGGER row_before BEFORE INSERT ON cqrs.outbox FOR EACH ROW EXECUTE FUNCTION tell();
CREATE TRIGGER row_after AFTER INSERT ON cqrs.outbox FOR EACH ROW EXECUTE FUNCTION tell();
CREATE TRIGGER statement_before BEFORE INSERT ON cqrs.outbox EXECUTE FUNCTION tell();
CREATE TRIGGER statement_after AFTER INSERT ON cqrs.outbox EXECUTE FUNCTION tell();
RESET ROLE;
INSERT INTO t VALUES ('6', 'c', '{}');
DROP FUNCTION tell() CASCADE;
SET ROLE regress_inserter;
CREATE TRIGGER escape AFTER INSERT ON cqrs.outbox EXECUTE FUNCTION escape();
RESET ROLE;
INSERT INTO t VALUES ('7', 'c', '{}');
DROP TRIGGER escape ON cqrs.outbox;
SET ROLE regress_inserter;
CREATE CONSTRAINT TRIGGER escape AFTER INSERT ON cqrs.outbox INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION escape();
RESET ROLE;
INSERT INTO t VALUES ('7', 'c', '{}');
DROP FUNCTION escape() CASCADE;
SELECT source, event_type, current_user <> 'regress_attacher' AS back FROM cqrs.outbox ORDER BY position;
-- a function that somebody else could replace does not run as the owner
SET ROLE regress_inserter;
CREATE FUNCTION theirs(id text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT id $$;
SET ROLE regress_attacher;
CREATE TABLE other (id text);
SELECT cqrs.attach_outbox('other', 's', 'mapping', '{"event_id": "id", "aggregate_type": "id", "aggregate_id": "id", "event_type": "attach_rights.theirs(id)"}');
-- what was put aside: for the owner, members of it, and monitors, who don't see the row
SELECT row, message FROM cqrs.source_dead_letter;
SET ROLE regress_member;
SELECT row, message FROM cqrs.source_dead_letter;
SELECT cqrs.retry_source_dead_letters('t');
SET ROLE regress_monitor;
SELECT row, message FROM cqrs.source_dead_letter;
SELECT source, relation, events, rows_parked FROM cqrs.source_status;
SET ROLE regress_inserter;
SELECT row, message FROM cqrs.source_dead_letter;
SELECT source, relation, events, rows_parked FROM cqrs.source_status;
SELECT cqrs.retry_source_dead_letters('t');
SELECT cqrs.discard_source_dead_letters('t', 'b');
SELECT cqrs.detach_outbox('t');
SELECT * FROM cqrs.received;
-- a right that the owner lacks does not hide a column that goes
RESET ROLE;
CREATE SCHEMA attach_lent;
CREATE FUNCTION attach_lent.id(id text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT id';
GRANT USAGE ON SCHEMA attach_lent TO regress_attacher;
SET ROLE regress_attacher;
CREATE TABLE lent (id text, who text, body text);
SELECT cqrs.attach_outbox('lent', 'lent', 'mapping', '{"event_id": "attach_lent.id(id)", "aggregate_type": "''T''", "aggregate_id": "who", "event_type": "''E''", "payload": "body"}');
RESET ROLE;
REVOKE USAGE ON SCHEMA attach_lent FROM regress_attacher;
ALTER TABLE lent DROP body;
ALTER TABLE lent ADD other text;
SELECT cqrs.detach_outbox('lent');
DROP SCHEMA attach_lent CASCADE;
-- another owner of the table must not run what this one wrote
RESET ROLE;
ALTER TABLE t OWNER TO regress_inserter;
-- nor one without the right to the source's name; with it, REASSIGN OWNED is the word for it
REVOKE INSERT ON cqrs.outbox FROM regress_inserter;
REASSIGN OWNED BY regress_attacher TO regress_inserter;
GRANT INSERT (source) ON cqrs.outbox TO regress_inserter;
REASSIGN OWNED BY regress_attacher TO regress_inserter;
INSERT INTO t VALUES ('4', 'a', '{}');
SELECT relation, owner FROM cqrs.attachment;
SELECT cqrs.detach_outbox('t');
SET ROLE regress_inserter;
SELECT cqrs.discard_source_dead_letters('t', 'b');
-- a superuser attaches it for its owner
RESET ROLE;
SELECT cqrs.attach_outbox('t', 's', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "who", "event_type": "attach_rights.as_whom(id)", "payload": "body"}', 'leave');
INSERT INTO t VALUES ('5', 'a', '{}');
SELECT source, event_type FROM cqrs.outbox ORDER BY position;
DROP EXTENSION cqrs_views;
DROP SCHEMA attach_rights CASCADE;
DROP ROLE regress_attacher, regress_member, regress_inserter, regress_monitor;
