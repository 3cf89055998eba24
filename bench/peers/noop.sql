-- A row trigger that does nothing: what any trigger costs. It needs no transaction ids.
ALTER TABLE bench.plain_outbox DROP COLUMN xid;
CREATE FUNCTION bench.do_nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER do_nothing AFTER INSERT ON bench.plain_outbox
    FOR EACH ROW EXECUTE FUNCTION bench.do_nothing();
