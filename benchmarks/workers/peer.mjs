// The same as peer.py for migrate-mongo: one warm process, its API timed call by call on an open connection.
import readline from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const from = createRequire(process.env.PEER_ROOT + "/package.json");
const { MongoClient } = from("mongodb");
const { up, down } = await import(pathToFileURL(process.env.PEER_ROOT + "/node_modules/migrate-mongo/lib/migrate-mongo.js"));

const client = await MongoClient.connect(process.env.MONGODB_URI);
await client.db("admin").command({ ping: 1 });
global.options = { block: true };
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { do: what, database } = JSON.parse(line);
  const began = process.hrtime.bigint();
  await (what === "down" ? down : up)(client.db(database), client);
  console.log(JSON.stringify({ seconds: Number(process.hrtime.bigint() - began) / 1e9 }));
}
await client.close();
