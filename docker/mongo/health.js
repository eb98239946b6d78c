// Is this member fit for work? Needs no login: `hello` answers anyone.
// Before the set is initiated a member that answers is healthy, because mongo-init waits for exactly that.
// Afterwards only a primary or a secondary is: RECOVERING, ROLLBACK and STARTUP2 are not.
const hello = db.hello();
const initiated = Boolean(hello.setName);
quit(!initiated || hello.isWritablePrimary || hello.secondary ? 0 : 1);
