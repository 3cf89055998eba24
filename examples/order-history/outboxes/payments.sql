-- The payments service's outbox: the table of Debezium's outbox event router, with the columns that it asks for.
CREATE SCHEMA IF NOT EXISTS payments;
CREATE TABLE payments.outbox (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype varchar(255) NOT NULL,
    aggregateid   varchar(255) NOT NULL,
    type          varchar(255) NOT NULL,
    payload       jsonb
);
