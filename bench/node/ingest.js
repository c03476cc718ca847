// A straightforward ingest service: parse, produce with acks=all, insert, answer.
// node ingest.js PORT BROKERS TOPIC DATABASE_URL
import { createServer } from 'node:http';
import { Kafka, logLevel } from 'kafkajs';
import pg from 'pg';

const [port, brokers, topic, url] = process.argv.slice(2);
const kafka = new Kafka({ brokers: brokers.split(','), logLevel: logLevel.ERROR });
const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 5 });
await producer.connect();
const database = new pg.Pool({ connectionString: url, max: 10 });
await database.query('CREATE TABLE IF NOT EXISTS node_ingested (id bigserial PRIMARY KEY, data jsonb)');

createServer((request, response) => {
  if (request.method === 'GET') return response.end('ok');
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', async () => {
    const body = Buffer.concat(chunks);
    try {
      const event = JSON.parse(body);
      await producer.send({ topic, acks: -1, messages: [{ key: `${event.gameId}:${event.userId}`, value: body }] });
      await database.query('INSERT INTO node_ingested (data) VALUES ($1)', [event]);
      const answer = JSON.stringify({ status: 'accepted' });
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': answer.length });
      response.end(answer);
    } catch (error) {
      response.writeHead(503, { 'content-length': 0 });
      response.end();
    }
  });
}).listen(Number(port), '127.0.0.1');
