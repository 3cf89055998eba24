-- Who may create a projection, manage it, look at it.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_owner;
CREATE ROLE regress_member;
CREATE ROLE regress_stranger;
GRANT regress_owner TO regress_member;
CREATE SCHEMA app AUTHORIZATION regress_owner;
GRANT USAGE ON SCHEMA app TO PUBLIC;
CREATE TABLE public_table (id text);
CREATE FUNCTION public_handler(cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.grant_publish('regress_owner');

-- a plain role, step by step, by what the hints say
SET ROLE regress_owner;
CREATE TABLE app.orders (id text, who name);
CREATE FUNCTION app.on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.orders VALUES (e.aggregate_id, current_user);
END $$;
SELECT cqrs.create_projection('orders', 'app.on_event(cqrs.event)', '{app.orders}'); \echo :SQLSTATE
RESET ROLE;
GRANT SELECT ON cqrs.outbox TO regress_owner;
SET ROLE regress_owner;
SELECT cqrs.create_projection('orders', 'app.on_event(cqrs.event)', '{app.orders,public_table}'); \echo :SQLSTATE
SELECT cqrs.create_projection('orders', 'app.on_event(cqrs.event)', '{app.orders}', mode => 'inline'); \echo :SQLSTATE
SELECT cqrs.create_projection('orders', 'app.on_event(cqrs.event)', '{app.orders}', on_error => 'stop');
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
CALL cqrs.catch_up();
TABLE app.orders;
-- inline needs a right that can hurt publishers
SELECT cqrs.alter_projection('orders', mode => 'inline'); \echo :SQLSTATE
RESET ROLE;
GRANT TRIGGER ON cqrs.outbox TO regress_owner;
SET ROLE regress_owner;
SELECT cqrs.alter_projection('orders', mode => 'inline');
RESET ROLE;
-- whoever publishes, the handler runs as the owner
CREATE ROLE regress_publisher;
SELECT cqrs.grant_publish('regress_publisher');
SET ROLE regress_publisher;
SELECT cqrs.publish('Order', 'o2', 'Placed') > 0 AS published;
SELECT current_user;
RESET ROLE;
SELECT cqrs.publish('Order', 'o3', 'Placed') > 0 AS published;
TABLE app.orders;

-- managing: the owner, and who has the owner's rights
SET ROLE regress_stranger;
SELECT cqrs.pause_projection('orders'); \echo :SQLSTATE
SELECT cqrs.resume_projection('orders'); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders', notify => 'none'); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders'); \echo :SQLSTATE
SELECT cqrs.drop_projection('orders'); \echo :SQLSTATE
CALL cqrs.catch_up('orders'); \echo :SQLSTATE
CALL cqrs.rebuild_projection('orders', online => false); \echo :SQLSTATE
CALL cqrs.catch_up();
-- looking and waiting: anybody; the handler's name is no secret, the error is
SELECT name, owner, handler FROM cqrs.projection;
SELECT cqrs.wait_for('orders');
RESET ROLE;
CREATE OR REPLACE FUNCTION app.on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE ''secret of %'', e.aggregate_id; END';
SET ROLE regress_member;
SELECT cqrs.alter_projection('orders', mode => 'async');
SET ROLE regress_publisher;
SELECT cqrs.publish('Order', 'o4', 'Placed') > 0 AS published;
RESET ROLE;
DO $$ BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT state = 'stopped' FROM cqrs.projection_status);
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SET ROLE regress_stranger;
SELECT name, state, last_error, last_error_at IS NOT NULL AS at FROM cqrs.projection_status;
SET ROLE regress_member;
SELECT split_part(last_error, E'\n', 1) AS last_error FROM cqrs.projection_status;
RESET ROLE;
GRANT pg_monitor TO regress_stranger;
SET ROLE regress_stranger;
SELECT split_part(last_error, E'\n', 1) AS last_error FROM cqrs.projection_status;
RESET ROLE;

-- handlers of strangers: not taken, because who owns one can replace it
SET ROLE regress_stranger;
CREATE FUNCTION pg_temp.mine(cqrs.event) RETURNS void LANGUAGE sql AS '';
RESET ROLE;
CREATE FUNCTION app.strange(cqrs.event) RETURNS void LANGUAGE sql AS '';
ALTER FUNCTION app.strange OWNER TO regress_stranger;
CREATE FUNCTION app.closed(cqrs.event) RETURNS void LANGUAGE sql AS '';
REVOKE EXECUTE ON FUNCTION app.closed FROM PUBLIC;
SET ROLE regress_owner;
SELECT cqrs.alter_projection('orders', handler => 'app.strange(cqrs.event)'); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders', handler => 'app.closed(cqrs.event)'); \echo :SQLSTATE
-- those of a superuser are, and of no one else, superuser or not
SELECT cqrs.alter_projection('orders', handler => 'public_handler(cqrs.event)');
SELECT cqrs.resume_projection('orders');
CALL cqrs.catch_up('orders');
RESET ROLE;
SELECT cqrs.create_projection('mine', 'app.strange(cqrs.event)', '{public_table}'); \echo :SQLSTATE
SELECT cqrs.create_projection('mine', 'app.on_event(cqrs.event)', '{public_table}'); \echo :SQLSTATE
-- a member creates for itself, not for the role
SET ROLE regress_member;
SELECT cqrs.create_projection('mine', 'app.on_event(cqrs.event)', '{app.orders}'); \echo :SQLSTATE
SELECT cqrs.drop_projection('orders');
RESET ROLE;

\set VERBOSITY terse
DROP SCHEMA app CASCADE;
DROP TABLE public_table;
DROP FUNCTION public_handler, pg_temp.mine;
DROP EXTENSION cqrs_views;
DROP ROLE regress_owner, regress_member, regress_stranger, regress_publisher;
