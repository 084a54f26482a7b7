// Tasks on Emmett, with its PostgreSQL event store, behind Node's own HTTP server.
import { createServer } from 'node:http';
import { CommandHandler, STREAM_DOES_NOT_EXIST } from '@event-driven-io/emmett';
import { getPostgreSQLEventStore } from '@event-driven-io/emmett-postgresql';

const store = getPostgreSQLEventStore(process.env.DATABASE);

const evolve = (state, { type, data }) => {
  switch (type) {
    case 'TaskCreated':
      return { ...state, status: 'todo', title: data.title, due: data.due };
    case 'TaskAssigned':
      return { ...state, assignee: data.assignee };
    case 'TaskCompleted':
      return { ...state, status: 'done' };
    default:
      return state;
  }
};
const handle = CommandHandler({ evolve, initialState: () => ({ status: 'none' }) });

const requireOpen = (state) => {
  if (state.status !== 'todo') throw new Error('the task is not open');
};
const commands = {
  '/commands/task.create': ({ id, title, due }) =>
    handle(store, `task-${id}`, () => ({ type: 'TaskCreated', data: { id, title, due } }), {
      expectedStreamVersion: STREAM_DOES_NOT_EXIST,
    }),
  '/commands/task.assign': ({ id, assignee }) =>
    handle(store, `task-${id}`, (state) => {
      requireOpen(state);
      return { type: 'TaskAssigned', data: { id, assignee } };
    }),
  '/commands/task.complete': ({ id }) =>
    handle(store, `task-${id}`, (state) => {
      requireOpen(state);
      return { type: 'TaskCompleted', data: { id } };
    }),
};

const server = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  let status = 200;
  let answer;
  try {
    const done = await commands[request.url](JSON.parse(Buffer.concat(parts).toString()));
    answer = { version: Number(done.nextExpectedStreamVersion) };
  } catch (error) {
    console.error(error);
    status = 500;
    answer = { error: String(error) };
  }
  const body = JSON.stringify(answer);
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
  response.end(body);
});
await store.schema.migrate();
server.listen(Number(process.env.APP_PORT), '127.0.0.1');
