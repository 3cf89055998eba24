-- Eight seconds of payments for what the order board shows as placed.
SET ROLE payments;

DO $$
DECLARE
    closing_time timestamptz := clock_timestamp() + '8 seconds';
    due record;
BEGIN
    WHILE clock_timestamp() < closing_time LOOP
        FOR due IN SELECT order_id, total FROM order_board WHERE status = 'placed' ORDER BY random() LIMIT 2 LOOP
            -- The board may not yet show an earlier payment; the service's own table does.
            INSERT INTO payments.payment VALUES (due.order_id, due.total) ON CONFLICT DO NOTHING;
            IF FOUND THEN
                PERFORM cqrs.publish('order', due.order_id, 'PaymentReceived',
                                     jsonb_build_object('amount', due.total));
            END IF;
        END LOOP;
        COMMIT;
        PERFORM pg_sleep(0.25);
    END LOOP;
END $$;
