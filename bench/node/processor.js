// A straightforward processor: one event at a time, one INSERT and one UPSERT each, then the offset.
// node processor.js BROKERS TOPIC DATABASE_URL; prints "done N" for every 100 events.
import kafkajs from 'kafkajs';
import SnappyCodec from 'kafkajs-snappy';
import pg from 'pg';

const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = kafkajs;
CompressionCodecs[CompressionTypes.Snappy] = SnappyCodec;

const [brokers, topic, url] = process.argv.slice(2);
const database = new pg.Client({ connectionString: url });
await database.connect();
await database.query('CREATE TABLE IF NOT EXISTS node_events (event_id text PRIMARY KEY, data jsonb)');
await database.query('CREATE TABLE IF NOT EXISTS node_progress (user_id text PRIMARY KEY, current bigint)');
const kafka = new Kafka({ brokers: brokers.split(','), logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId: `node-${process.pid}` });
await consumer.connect();
await consumer.subscribe({ topics: [topic], fromBeginning: true });
let done = 0;
await consumer.run({
  eachMessage: async ({ message }) => {
    const event = JSON.parse(message.value);
    await database.query('INSERT INTO node_events VALUES ($1, $2) ON CONFLICT DO NOTHING', [event.eventId, event]);
    await database.query(
      'INSERT INTO node_progress VALUES ($1, 1) ON CONFLICT (user_id) DO UPDATE SET current = node_progress.current + 1',
      [event.userId],
    );
    done += 1;
    if (done % 100 === 0) console.log(`done ${done}`);
  },
});
