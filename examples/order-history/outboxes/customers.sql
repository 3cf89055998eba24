-- The customers service's outbox: the table of Eventuate Tram, as that project makes it. Its subscribers have one of the
-- same name, since logical replication keeps names.
CREATE SCHEMA IF NOT EXISTS customers;
CREATE TABLE customers.message (
    id                varchar(1000) PRIMARY KEY,
    destination       text NOT NULL,
    headers           text NOT NULL,
    payload           text NOT NULL,
    published         smallint DEFAULT 0,
    message_partition smallint,
    creation_time     bigint
);
