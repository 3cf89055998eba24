-- Names of projections, handlers and read tables that need quoting, of 63 bytes, of many bytes a letter.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA "Odd, schema";
CREATE TABLE "Odd, schema"."the ""Table"" it's" ("Id, x" text, event_types text[]);
CREATE FUNCTION "Odd, schema"."on ""Event"", it's"("E, x" cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO "Odd, schema"."the ""Table"" it's" VALUES ("E, x".aggregate_id, ARRAY["E, x".event_type]);
END $$;
-- the longest name, in one byte and in two bytes a letter; a space at the end; quotes, backslashes, JSON and SQL
CREATE TABLE name_under_test (id int PRIMARY KEY, name name);
INSERT INTO name_under_test VALUES (1, repeat('n', 63)), (2, repeat('ä', 31) || 'n'), (3, 'trailing '), (4, ' '),
	(5, 'it''s "quoted"'), (6, E'back\\slash\nnew line'), (7, '{"json": 1}'), (8, '%s %n $1'), (9, 'SELECT'), (10, '日本語'), (11, 'UPPER');

-- every call that takes a name; inline makes triggers too
DO $$
DECLARE
	n record;
	handler regprocedure := $h$"Odd, schema"."on ""Event"", it's"(cqrs.event)$h$::regprocedure;
	read_table regclass := $t$"Odd, schema"."the ""Table"" it's"$t$::regclass;
BEGIN
	FOR n IN SELECT * FROM name_under_test ORDER BY id LOOP
		PERFORM cqrs.create_projection(n.name, handler, ARRAY[read_table], mode => 'inline', start_at => 'now');
		PERFORM cqrs.pause_projection(n.name);
		PERFORM cqrs.resume_projection(n.name);
		PERFORM cqrs.wait_for(n.name);
		PERFORM cqrs.alter_projection(n.name, new_name => 'other');
		PERFORM cqrs.alter_projection('other', new_name => n.name);
		IF NOT EXISTS (SELECT FROM cqrs.projection_status s WHERE s.name = n.name AND s.state = 'running') THEN
			RAISE 'projection % is not running', n.name;
		END IF;
		PERFORM cqrs.drop_projection(n.name);
	END LOOP;
END $$;
-- messages quote it, hints can be run as they are
SELECT cqrs.create_projection(name, '"Odd, schema"."on ""Event"", it''s"(cqrs.event)',
	ARRAY['"Odd, schema"."the ""Table"" it''s"']::regclass[]) FROM name_under_test WHERE id = 5;
SELECT cqrs.create_projection(name, '"Odd, schema"."on ""Event"", it''s"(cqrs.event)',
	ARRAY['"Odd, schema"."the ""Table"" it''s"']::regclass[]) FROM name_under_test WHERE id = 6; \echo :SQLSTATE
SELECT cqrs.pause_projection('it''s "quoted"');
SELECT cqrs.wait_for('it''s "quoted"'); \echo :SQLSTATE
SELECT cqrs.resume_projection('it''s "quoted"');
INSERT INTO "Odd, schema"."the ""Table"" it's" VALUES ('by hand', NULL); \echo :SQLSTATE
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
CALL cqrs.catch_up('it''s "quoted"');
SELECT * FROM "Odd, schema"."the ""Table"" it's";
SELECT handler, read_tables FROM cqrs.projection;
-- renamed: found by its oid, or by its new name; the handler is named by its signature
ALTER TABLE "Odd, schema"."the ""Table"" it's" RENAME TO "New, Table";
ALTER SCHEMA "Odd, schema" RENAME TO "new ""Schema""";
CREATE OR REPLACE FUNCTION "new ""Schema"""."on ""Event"", it's"("E, x" cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO "new ""Schema"""."New, Table" VALUES ("E, x".aggregate_id, ARRAY["E, x".event_type]);
END $$;
SELECT cqrs.alter_projection('it''s "quoted"', handler => '"new ""Schema"""."on ""Event"", it''s"(cqrs.event)');
SELECT cqrs.publish('Order', 'o2', 'Placed') > 0 AS published;
CALL cqrs.catch_up('it''s "quoted"');
SELECT * FROM "new ""Schema"""."New, Table";
INSERT INTO "new ""Schema"""."New, Table" VALUES ('by hand', NULL); \echo :SQLSTATE
CALL cqrs.rebuild_projection('it''s "quoted"', online => false);
SELECT * FROM "new ""Schema"""."New, Table";
SELECT handler, read_tables FROM cqrs.projection;
SELECT cqrs.drop_projection('it''s "quoted"', drop_read_tables => true);

-- a name too long is cut like any other name, with nothing lost on the way back
SELECT length(repeat('n', 70)::name::text);
SELECT cqrs.drop_projection(repeat('x', 70)::name); \echo :SQLSTATE
DROP TABLE name_under_test;
DROP SCHEMA "new ""Schema""" CASCADE;
DROP EXTENSION cqrs_views;
