-- What the read models' files can be told, and what they take when nobody tells them:
--
--     psql -v mode=inline -v per=batch -v batch_size=500 -f flight_board.sql
--
--     mode        async: by background workers after commit; inline: in the publisher's transaction
--     per         event: the handler is called once per event; batch: once per batch
--     batch_size  how many events make a batch at most; NULL is the server's setting

\set ON_ERROR_STOP on

\if :{?mode} \else \set mode async \endif
\if :{?per} \else \set per event \endif
\if :{?batch_size} \else \set batch_size NULL \endif

-- The handlers of a read model bear its name. Their arguments tell them apart.
SELECT CASE :'per' WHEN 'event' THEN '(cqrs.event)' WHEN 'batch' THEN '()' END AS arguments \gset

SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS flights;
RESET client_min_messages;
