-- A hand-written row trigger that keeps the read table. It needs no transaction ids.
ALTER TABLE bench.plain_outbox DROP COLUMN xid;
CREATE TRIGGER keep AFTER INSERT ON bench.plain_outbox
    FOR EACH ROW EXECUTE FUNCTION bench.keep_by_row_trigger();
CREATE VIEW bench.kept AS TABLE bench.by_hand;
