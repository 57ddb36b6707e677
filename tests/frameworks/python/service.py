"""A service in Python, over gRPC. README.md in the folder above says what every such program does."""

import json
import sys
import threading
import time

from rocketmq import (ClientConfiguration, ConsumeResult, Credentials, FilterExpression, Message, MessageListener,
                      Producer, PushConsumer)

address, name, unlucky, topics = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
configuration = ClientConfiguration(address, Credentials(), request_timeout=10)
relayed_to = {topic: topic.upper().replace("-", "_") for topic in topics if topic.islower()}
producer = Producer(configuration, [*relayed_to.values()])
healed = threading.Event()
voice = threading.Lock()


def say(**what):
    with voice:
        print(json.dumps(what), flush=True)


def zoneless(epoch_ms):
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(int(epoch_ms) / 1000))


def own_form(event, body):
    """The body as this house writes it: with the fields that it knows, amounts as texts, times of its own."""
    if event == "ORDER_CREATED":
        known = ("orderId", "orderNo", "userId", "totalAmount", "productQuantityMap", "remark", "eventId")
        return {**{field: body.get(field) for field in known}, "timestamp": int(time.time() * 1000)}
    if event == "PAYMENT_SUCCESS":
        return {**body, "amount": str(body["amount"]), "payTime": zoneless(body["payTime"])}
    if event == "CALLBACK_SUBMIT":
        return {**body, "money": str(body["money"]), "create_datetime": zoneless(body["create_datetime"])}
    return body


def send(event, key, body):
    """Twice, as a service does that was not sure of the first time."""
    for _ in range(2):
        message = Message()
        message.topic = event
        message.tag = event
        message.keys = key
        message.body = json.dumps(own_form(event, body)).encode()
        producer.send(message)
    say(sent=event, key=key)


class Relay(MessageListener):
    def consume(self, message):
        body = json.loads(message.body)
        say(read=message.topic, key=list(message.keys)[0], tag=message.tag, body=body)
        if message.topic in relayed_to:
            send(relayed_to[message.topic], list(message.keys)[0], body)
        return ConsumeResult.SUCCESS


class Failing(MessageListener):
    """Fails each message once, and those of one user until it is healed."""

    def consume(self, message):
        body = json.loads(message.body)
        never = str(body["userId"]) == unlucky and not healed.is_set()
        if never or (message.delivery_attempt == 1 and not healed.is_set()):
            say(failed=body["orderId"], attempt=message.delivery_attempt)
            return ConsumeResult.FAILURE
        say(handled=body["orderId"], attempt=message.delivery_attempt)
        return ConsumeResult.SUCCESS


producer.startup()
everything = FilterExpression("*")
consumers = [
    PushConsumer(configuration, name, Relay(), {topic: everything for topic in topics}),
    PushConsumer(configuration, name + "-failing", Failing(), {"paid-order-success": everything}),
]
for consumer in consumers:
    consumer.startup()
say(ready=True)
for line in sys.stdin:
    order = json.loads(line)
    if order.get("heal"):
        healed.set()
    else:
        send(order["event"], order["key"], order["body"])
for client in [*consumers, producer]:
    client.shutdown()
