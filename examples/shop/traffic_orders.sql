-- Eight seconds of customers: the orders service writes its own row and its event in one transaction.
SET ROLE orders;

DO $$
DECLARE
    closing_time timestamptz := clock_timestamp() + '8 seconds';
    customers text[] := '{Ada,Grace,Edsger,Barbara,Tony,Radia}';
    number integer := 1000;
    customer text;
    total numeric;
BEGIN
    WHILE clock_timestamp() < closing_time LOOP
        number := number + 1;
        customer := customers[1 + floor(random() * cardinality(customers))];
        total := round((5 + random() * 95)::numeric, 2);
        INSERT INTO orders.purchase VALUES ('order-' || number, customer, total);
        PERFORM cqrs.publish('order', 'order-' || number, 'OrderPlaced',
                             jsonb_build_object('customer', customer, 'total', total));
        COMMIT;
        PERFORM pg_sleep(0.1);
    END LOOP;
END $$;
