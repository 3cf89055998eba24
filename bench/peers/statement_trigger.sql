-- A hand-written statement trigger that keeps the read table. It needs no transaction ids.
ALTER TABLE bench.plain_outbox DROP COLUMN xid;
CREATE TRIGGER keep AFTER INSERT ON bench.plain_outbox REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION bench.keep_by_statement_trigger();
CREATE VIEW bench.kept AS TABLE bench.by_hand;
