-- What a session has in its temporary schema never stands for a name in the owner's code: it would run as the owner.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_owner;
CREATE ROLE regress_thief;
SELECT cqrs.grant_publish('regress_thief');
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_owner;
CREATE SCHEMA app AUTHORIZATION regress_owner;
CREATE SCHEMA thief AUTHORIZATION regress_thief;
GRANT USAGE ON SCHEMA thief TO PUBLIC;

-- tables and types by their bare names: in a handler, a key, a view
SET ROLE regress_owner;
SET search_path = app;
CREATE DOMAIN amount AS integer;
CREATE TABLE orders (id text PRIMARY KEY, amount integer, who name);
CREATE TABLE totals (id text PRIMARY KEY, amount integer);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO orders VALUES (e.aggregate_id, (e.payload->>'amount')::amount, current_user);
END $$;
CREATE FUNCTION add_up(t totals, e cqrs.event) RETURNS totals LANGUAGE plpgsql AS $$
DECLARE
	known orders;
BEGIN
	SELECT * INTO known FROM orders o WHERE o.id = e.aggregate_id;
	RETURN ROW (e.aggregate_id, coalesce(t.amount, 0) + coalesce(known.amount, 0))::totals;
END $$;
SELECT cqrs.create_projection('orders', 'on_event(cqrs.event)', '{orders}', mode => 'inline', key => $$((payload->>'amount')::amount)::text$$);
SELECT cqrs.create_projection('totals', 'add_up(totals,cqrs.event)', '{totals}', mode => 'inline');
SELECT cqrs.create_view('amounts', $$SELECT (payload->>'amount')::amount::integer AS amount, count(*) AS events FROM events GROUP BY 1$$, mode => 'inline');
-- also where the owner's path had the temporary schema in front
SET search_path = pg_temp, app;
CREATE TABLE app.second (LIKE app.orders);
CREATE FUNCTION app.second(e cqrs.event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO second VALUES (e.aggregate_id, (e.payload->>'amount')::amount, current_user)
$$;
SELECT cqrs.create_projection('second', 'app.second(cqrs.event)', '{app.second}', mode => 'inline');
RESET search_path;

-- the thief's: whatever finds them writes down whom it got
SET ROLE regress_thief;
CREATE TABLE thief.loot (who name, by text);
GRANT INSERT ON thief.loot TO PUBLIC;
CREATE FUNCTION thief.steal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO thief.loot VALUES (current_user, TG_TABLE_NAME);
	RETURN NULL;
END $$;
CREATE FUNCTION thief.steal(integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO thief.loot VALUES (current_user, 'domain');
	RETURN true;
END $$;
CREATE DOMAIN pg_temp.amount AS integer CHECK (thief.steal(VALUE));
CREATE TEMP TABLE orders (id text PRIMARY KEY, amount integer, who name);
CREATE TEMP TABLE second (id text PRIMARY KEY, amount integer, who name);
CREATE TEMP TABLE totals (id text PRIMARY KEY, amount integer);
CREATE TRIGGER steal BEFORE INSERT OR UPDATE ON orders FOR EACH STATEMENT EXECUTE FUNCTION thief.steal();
CREATE TRIGGER steal BEFORE INSERT OR UPDATE ON second FOR EACH STATEMENT EXECUTE FUNCTION thief.steal();
CREATE TRIGGER steal BEFORE INSERT OR UPDATE ON totals FOR EACH STATEMENT EXECUTE FUNCTION thief.steal();
GRANT ALL ON orders, second, totals TO PUBLIC;
SELECT cqrs.publish('Order', 'inline', 'Placed', '{"amount": 1}') > 0 AS published;
RESET ROLE;
TABLE thief.loot;

-- a session that has them, and processes events by hand
SET ROLE regress_owner;
SELECT count(cqrs.alter_projection(name, mode => 'async')) FROM cqrs.projection;
SELECT count(cqrs.pause_projection(name)) FROM cqrs.projection;
SET ROLE regress_thief;
SELECT cqrs.publish('Order', 'caught up', 'Placed', '{"amount": 2}') > 0 AS published;
RESET ROLE;
SELECT count(cqrs.resume_projection(name)) FROM cqrs.projection;
CALL cqrs.catch_up();
CALL cqrs.rebuild_projection('orders', online => false);
CALL cqrs.rebuild_projection('totals', online => false);
CALL cqrs.rebuild_projection('amounts', online => false);
CALL cqrs.rebuild_projection('second', online => false);
TABLE thief.loot;
SELECT * FROM app.orders ORDER BY amount;
SELECT * FROM app.second ORDER BY amount;
SELECT * FROM app.totals ORDER BY id;
SELECT * FROM app.amounts ORDER BY amount;

\set VERBOSITY terse
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP TABLE pg_temp.orders, pg_temp.second, pg_temp.totals;
DROP SCHEMA app CASCADE;
DROP DOMAIN pg_temp.amount;
DROP SCHEMA thief CASCADE;
DROP EXTENSION cqrs_views;
DROP ROLE regress_owner, regress_thief;
