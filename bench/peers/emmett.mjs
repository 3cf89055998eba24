// Emmett's part of the benchmark.
//
//   node emmett.mjs schema URL                 makes the event store's tables
//   node emmett.mjs consume URL BATCH POLL_MS  keeps the read table bench.kept; with POLL_MS 0 until nothing is left,
//                                              and then prints how many milliseconds that took
//
// The consumer gives a projection one event at a time, whatever the batch.
import { sql } from '@event-driven-io/dumbo';
import {
  getPostgreSQLEventStore, postgreSQLEventStoreConsumer, postgreSQLRawSQLProjection,
} from '@event-driven-io/emmett-postgresql';

const [mode, connectionString, batchSize, pollMs] = process.argv.slice(2);

const kept = postgreSQLRawSQLProjection({
  name: 'kept',
  canHandle: ['ItemAdded'],
  evolve: ({ data, metadata }) => sql(
    `INSERT INTO bench.kept AS o VALUES (%L, 1, %s) ON CONFLICT (order_id)
     DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total`, metadata.streamName, data.price),
});

if (mode === 'schema') {
  const store = getPostgreSQLEventStore(connectionString);
  await store.schema.migrate();
  await store.close();
} else {
  const untilNoneLeft = pollMs === '0';
  const consumer = postgreSQLEventStoreConsumer({
    connectionString,
    stopWhen: untilNoneLeft ? { noMessagesLeft: true } : undefined,
    pulling: { batchSize: Number(batchSize), pullingFrequencyInMs: untilNoneLeft ? undefined : Number(pollMs) },
  });
  consumer.projector({ projection: kept });
  const began = performance.now();
  await consumer.start();
  console.log(performance.now() - began);
  await consumer.close();
}
