// A service in Node, over gRPC. README.md in the folder above says what every such program does.
'use strict';
const readline = require('node:readline');
const { ConsumeResult, FilterExpression, Producer, PushConsumer } = require('rocketmq-client-nodejs');

const [address, name, unlucky, ...topics] = process.argv.slice(2);
const base = { endpoints: address, namespace: '', requestTimeout: 10000 };
// Its client writes a log to the standard output, which is for our words only.
base.logger = { debug() {}, info() {}, warn: console.error, error: console.error };
const relayedTo = topic => (topic === topic.toLowerCase() ? topic.toUpperCase().replaceAll('-', '_') : undefined);
const producer = new Producer(base);
let healed = false;

function say(what) {
  process.stdout.write(JSON.stringify(what) + '\n');
}

// The body as this house writes it: ids stay texts, since a number of JavaScript cannot hold them.
function ownForm(event, body) {
  if (event === 'ORDER_CREATED') {
    const { orderId, orderNo, userId, totalAmount, productQuantityMap, remark, eventId } = body;
    return { orderId, orderNo, userId, totalAmount, productQuantityMap, remark, eventId, timestamp: Date.now() };
  }
  if (event === 'PAYMENT_SUCCESS') {
    return { ...body, payTime: new Date(Number(body.payTime)).toISOString() };
  }
  return body;
}

// Twice, as a service does that was not sure of the first time.
async function send(event, key, body) {
  for (let time = 0; time < 2; time++) {
    const text = Buffer.from(JSON.stringify(ownForm(event, body)));
    await producer.send({ topic: event, tag: event, keys: [key], body: text });
  }
  say({ sent: event, key });
}

const relay = {
  async consume(message) {
    const body = JSON.parse(message.body.toString());
    say({ read: message.topic, key: message.keys[0], tag: message.tag, body });
    const event = relayedTo(message.topic);
    if (event) await send(event, message.keys[0], body);
    return ConsumeResult.SUCCESS;
  },
};

// Fails each message once, and those of one user until it is healed.
const failing = {
  async consume(message) {
    const body = JSON.parse(message.body.toString());
    const attempt = message.deliveryAttempt;
    if (!healed && (body.userId === unlucky || attempt === 1)) {
      say({ failed: body.orderId, attempt });
      return ConsumeResult.FAILURE;
    }
    say({ handled: body.orderId, attempt });
    return ConsumeResult.SUCCESS;
  },
};

async function main() {
  await producer.startup();
  // A consumer that is started with many topics at once may hang for five minutes: it misses the settings that the
  // proxy sends while it still asks for the routes of the others. So the others are subscribed to afterwards.
  const consume = async (group, [first, ...others], messageListener) => {
    const subscriptions = new Map([[first, '*']]);
    const consumer = new PushConsumer({ ...base, consumerGroup: group, subscriptions, messageListener });
    await consumer.startup();
    for (const topic of others) await consumer.subscribe(topic, new FilterExpression('*'));
  };
  await consume(name, topics, relay);
  await consume(name + '-failing', ['paid-order-success'], failing);
  say({ ready: true });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    if (order.heal) healed = true;
    else await send(order.event, order.key, order.body);
  }
  process.exit(0);
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
