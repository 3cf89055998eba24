-- What wakes the consumer of the polling loop's tables; woken.mjs is it.
CREATE FUNCTION bench.notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY published;
    RETURN NULL;
END $$;
CREATE TRIGGER notify AFTER INSERT ON bench.plain_outbox FOR EACH STATEMENT EXECUTE FUNCTION bench.notify();
