// Initiate the replica set and keep its users in step with .env. Safe to run on every start.
//
// Runs inside the first member's network namespace, so that it reaches that member on 127.0.0.1: MongoDB lets an
// unauthenticated local client initiate a set and create one first user, and nobody else (the localhost exception).
//
// Users: `root` in admin, for people; and one `mongo_ops` per database, which the DAGs use. Each `mongo_ops` is stored
// in its own database (authSource), has a password of its own and reads and writes that database only.

const required = (name) => {
  const value = process.env[name];
  if (!value) fail(`${name} is not set. See .env.example.`);
  return value;
};
const fail = (message) => {
  console.error(message);
  quit(1);
};

const SET = required("MONGO_REPLICA_SET");
const MEMBERS = required("MONGO_MEMBERS").split(",");
const LOCAL = process.env.MONGO_LOCAL || "127.0.0.1:27017";
const ROOT_PASSWORD = required("MONGO_ROOT_PASSWORD");
const DATABASE = required("MONGO_DATABASE");
const OPS_PASSWORDS = {
  [DATABASE]: required("MONGO_OPS_DEVELOPMENT_PASSWORD"),
  [`${DATABASE}_staging`]: required("MONGO_OPS_STAGING_PASSWORD"),
  [`${DATABASE}_production`]: required("MONGO_OPS_PRODUCTION_PASSWORD"),
};
const UNAUTHORIZED = 13;
const AUTHENTICATION_FAILED = 18;

const local = () => connect(`mongodb://${LOCAL}/admin?directConnection=true&serverSelectionTimeoutMS=30000`);
const asRoot = (hosts, option) =>
  connect(`mongodb://root:${encodeURIComponent(ROOT_PASSWORD)}@${hosts}/admin?${option}&serverSelectionTimeoutMS=60000`);

function initiate(db) {
  // The first member is preferred as primary: only there can the first user be created.
  const members = MEMBERS.map((host, id) => ({ _id: id, host, priority: id === 0 ? 2 : 1 }));
  db.adminCommand({ replSetInitiate: { _id: SET, members } });
  print(`Replica set ${SET} initiated with ${MEMBERS.join(", ")}.`);
}

function rootLogsIn() {
  try {
    asRoot(LOCAL, "directConnection=true");
    return true;
  } catch (error) {
    if (error.code === AUTHENTICATION_FAILED) return false;
    throw error;
  }
}

function awaitPrimary(db) {
  for (let second = 0; second < 120; second += 1) {
    if (db.hello().isWritablePrimary) return;
    sleep(1000);
  }
  fail(`${MEMBERS[0]} did not become primary within 120 s. Look at its log: docker compose logs mongo1`);
}

function createRoot(db) {
  try {
    db.createUser({ user: "root", pwd: ROOT_PASSWORD, roles: ["root"] });
    print("User root created.");
  } catch (error) {
    if (error.code !== UNAUTHORIZED) throw error;
    fail(
      "This replica set already has users, and MONGO_ROOT_PASSWORD in .env does not open it. " +
        "Put back the password that the volumes were created with; docs/deploy.md says how to change it.",
    );
  }
}

function keepOpsUser(admin, database, pwd) {
  const roles = [
    { role: "readWrite", db: database }, // documents, indexes, change streams
    { role: "dbAdmin", db: database }, // collMod, validate, profiling
    // Health: replication, connections, the oplog's window. It may read the oplog, and that holds every database's writes:
    // accounts on one set are kept apart against mistakes, not against intent. Clusters of their own do that.
    { role: "clusterMonitor", db: "admin" },
  ];
  const target = admin.getSiblingDB(database);
  const exists = target.getUser("mongo_ops") !== null;
  if (exists) target.updateUser("mongo_ops", { pwd, roles });
  else target.createUser({ user: "mongo_ops", pwd, roles });
  print(`User mongo_ops of ${database} ${exists ? "updated" : "created"}.`);
}

const first = local();
if (!first.hello().setName) initiate(first);
if (!rootLogsIn()) {
  awaitPrimary(first);
  createRoot(first);
}
const admin = asRoot(MEMBERS.join(","), `replicaSet=${SET}`);
for (const [database, password] of Object.entries(OPS_PASSWORDS)) keepOpsUser(admin, database, password);
