// A consumer that a notification wakes: LISTEN, and a call that processes what there is. It looks once a second, too,
// as what it is woken for may have to wait for another transaction's end.
//
//   node woken.mjs URL
import pg from 'pg';

const client = new pg.Client({ connectionString: process.argv[2] });
let busy = false;
let again = false;

async function consume() {
  again = true;
  if (busy) return;
  busy = true;
  while (again) {
    again = false;
    await client.query('CALL bench.consume()');
  }
  busy = false;
}

await client.connect();
await client.query('SET synchronous_commit = off');
client.on('notification', consume);
await client.query('LISTEN published');
setInterval(consume, 1000);
await consume();
