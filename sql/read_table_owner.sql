-- Whoever owns a read table decides what runs when it is written to: it must be the role that the handler runs as.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_owner;
CREATE ROLE regress_member;
CREATE ROLE regress_super SUPERUSER;
GRANT regress_owner TO regress_member;
CREATE SCHEMA app;
GRANT ALL ON SCHEMA app TO PUBLIC;
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_owner, regress_member;
SET search_path = app;
CREATE PROCEDURE let_it_stop(projection name, OUT error text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..6000 LOOP
		SELECT last_error INTO error FROM cqrs.projection_status WHERE name = projection AND state = 'stopped';
		EXIT WHEN FOUND;
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO orders VALUES (e.aggregate_id);
END $$;

-- what the table's owner puts on it
SET ROLE regress_owner;
CREATE TABLE loot (who name, by text);
GRANT INSERT ON loot TO PUBLIC;
CREATE TABLE orders (id text);
CREATE FUNCTION steal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.loot VALUES (current_user, 'trigger');
	RETURN NEW;
END $$;
CREATE FUNCTION note(by text) RETURNS void LANGUAGE sql AS 'INSERT INTO app.loot VALUES (current_user, by)';
CREATE FUNCTION steal(by text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM app.note(by);
	RETURN by;
END $$;

-- a superuser and a member have the rights of the table's owner; what they register would run as them
RESET ROLE;
SELECT cqrs.create_projection('orders', 'on_event(cqrs.event)', '{orders}'); \echo :SQLSTATE
SELECT cqrs.create_projection('orders', 'on_event(cqrs.event)', '{orders}', mode => 'inline'); \echo :SQLSTATE
SET ROLE regress_member;
SELECT cqrs.create_projection('orders', 'on_event(cqrs.event)', '{orders}'); \echo :SQLSTATE
-- superusers may use each other's
SET ROLE regress_super;
CREATE TABLE superusers (id text);
RESET ROLE;
SELECT cqrs.create_projection('superusers', 'on_event(cqrs.event)', '{superusers}', event_types => '{}');

-- a table that is given away afterwards: inline, by a rebuild, by a worker
ALTER TABLE orders OWNER TO CURRENT_USER;
SELECT cqrs.create_projection('orders', 'on_event(cqrs.event)', '{orders}', mode => 'inline');
SELECT cqrs.publish('Order', 'before', 'Placed') > 0 AS published;
ALTER TABLE orders OWNER TO regress_owner;
SET ROLE regress_owner;
CREATE TRIGGER steal BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION steal();
CREATE INDEX ON orders (steal('index' || id));
ALTER TABLE orders ADD COLUMN by_default text DEFAULT steal('default');
ALTER TABLE orders ADD CHECK (steal('check' || id) IS NOT NULL);
RESET ROLE;
TRUNCATE loot;
SELECT cqrs.publish('Order', 'inline', 'Placed'); \echo :SQLSTATE
CALL cqrs.rebuild_projection('orders', online => false); \echo :SQLSTATE
SELECT cqrs.pause_projection('orders');
SELECT cqrs.publish('Order', 'paused', 'Placed') > 0 AS published;
SELECT cqrs.alter_projection('orders', mode => 'async');
SELECT cqrs.resume_projection('orders');
CALL let_it_stop('orders', NULL);
TABLE loot;
-- its superuser may drop it with its table, as any
SELECT id FROM orders;
SELECT cqrs.drop_projection('orders', drop_read_tables => true);
-- a superuser who is none any more is one of those others
ALTER ROLE regress_super NOSUPERUSER;
SELECT cqrs.alter_projection('superusers', event_types => '{Placed}');
SELECT cqrs.publish('Order', 'now', 'Placed') > 0 AS published;
CALL let_it_stop('superusers', NULL);

\set VERBOSITY terse
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP SCHEMA app CASCADE;
DROP EXTENSION cqrs_views;
DROP ROLE regress_owner, regress_member, regress_super;
