// Emmett's part of the benchmark.
//
//   node emmett.mjs schema URL                 makes the event store's tables
//   node emmett.mjs consume URL BATCH POLL_MS  keeps the read table bench.kept; with POLL_MS 0 until nothing is left
//
// Its projection adds a batch up in memory, and writes it by one statement.
import { rawSql, sql } from '@event-driven-io/dumbo';
import {
  getPostgreSQLEventStore, postgreSQLEventStoreConsumer, postgreSQLRawBatchSQLProjection,
} from '@event-driven-io/emmett-postgresql';

const [mode, connectionString, batchSize, pollMs] = process.argv.slice(2);

const kept = postgreSQLRawBatchSQLProjection({
  name: 'kept',
  canHandle: ['ItemAdded'],
  evolve: (events) => {
    const orders = new Map();
    for (const { data, metadata } of events) {
      const order = orders.get(metadata.streamName) ?? { items: 0, cents: 0 };
      order.items += 1;
      order.cents += Math.round(data.price * 100);
      orders.set(metadata.streamName, order);
    }
    const rows = [...orders].map(([id, { items, cents }]) => sql('(%L, %s, %s::numeric / 100)', id, items, cents));
    return [rawSql(`INSERT INTO bench.kept AS o VALUES ${rows.join(', ')} ON CONFLICT (order_id)
      DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total`)];
  },
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
  await consumer.start();
  await consumer.close();
}
