-- A second read table from the same events. This handler gets them a batch at a time.
CREATE TABLE best_customers (
    customer text PRIMARY KEY,
    orders   bigint NOT NULL,
    spent    numeric NOT NULL
);

CREATE FUNCTION keep_best_customers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO best_customers AS known
    SELECT payload->>'customer', count(*), sum((payload->>'total')::numeric)
    FROM events GROUP BY 1
    ON CONFLICT (customer) DO UPDATE
    SET orders = known.orders + excluded.orders, spent = known.spent + excluded.spent;
    RETURN NULL;
END $$;

SELECT cqrs.create_projection('best_customers', 'keep_best_customers()', '{best_customers}',
                              event_types => '{OrderPlaced}');
