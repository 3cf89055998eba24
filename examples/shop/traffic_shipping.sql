-- Eight seconds of parcels for what the order board shows as paid.
SET ROLE shipping;

DO $$
DECLARE
    closing_time timestamptz := clock_timestamp() + '8 seconds';
    carriers text[] := '{pigeon,bicycle,drone}';
    due record;
    carrier text;
BEGIN
    WHILE clock_timestamp() < closing_time LOOP
        FOR due IN SELECT order_id FROM order_board WHERE status = 'paid' ORDER BY random() LIMIT 2 LOOP
            carrier := carriers[1 + floor(random() * cardinality(carriers))];
            INSERT INTO shipping.parcel VALUES (due.order_id, carrier) ON CONFLICT DO NOTHING;
            IF FOUND THEN
                PERFORM cqrs.publish('order', due.order_id, 'OrderShipped',
                                     jsonb_build_object('carrier', carrier));
            END IF;
        END LOOP;
        COMMIT;
        PERFORM pg_sleep(0.35);
    END LOOP;
END $$;
