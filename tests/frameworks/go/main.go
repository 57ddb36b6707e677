// A service in Go, over the client of RocketMQ 4. README.md in the folder above says what every such program does.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

// OrderCreated has what this house knows of an order.
type OrderCreated struct {
	OrderID            int64          `json:"orderId,string"`
	OrderNo            string         `json:"orderNo"`
	UserID             int64          `json:"userId,string"`
	TotalAmount        json.Number    `json:"totalAmount"`
	ProductQuantityMap map[string]int `json:"productQuantityMap"`
	Remark             string         `json:"remark,omitempty"`
	Timestamp          int64          `json:"timestamp"`
	EventID            string         `json:"eventId"`
}

// PaymentSuccess has its time in seconds, as Go has it.
type PaymentSuccess struct {
	PaymentID     int64       `json:"paymentId,string"`
	OrderID       int64       `json:"orderId,string"`
	OrderNo       string      `json:"orderNo"`
	UserID        int64       `json:"userId,string"`
	Amount        json.Number `json:"amount"`
	PaymentMethod *string     `json:"paymentMethod"`
	TransactionNo string      `json:"transactionNo"`
	PayTime       int64       `json:"payTime"`
	EventID       string      `json:"eventId"`
}

var (
	send    rocketmq.Producer
	healed  atomic.Bool
	unlucky string
	voice   sync.Mutex
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func say(what map[string]any) {
	voice.Lock()
	defer voice.Unlock()
	must(json.NewEncoder(os.Stdout).Encode(what))
}

// typed reads a body into the type of this house, or a map where it has none.
func typed(event string, body []byte) (any, error) {
	var value any
	switch event {
	case "ORDER_CREATED":
		value = &OrderCreated{}
	case "PAYMENT_SUCCESS":
		value = &PaymentSuccess{}
	default:
		value = &map[string]any{}
	}
	// Without this an id that is a number would lose its last digits.
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.UseNumber()
	err := decoder.Decode(value)
	if paid, is := value.(*PaymentSuccess); is {
		paid.PayTime /= 1000
	}
	return value, err
}

// publish sends twice, as a service does that was not sure of the first time.
func publish(event, key string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	for range 2 {
		message := primitive.NewMessage(event, body).WithTag(event).WithKeys([]string{key}).WithShardingKey(key)
		if _, err := send.SendSync(context.Background(), message); err != nil {
			return err
		}
	}
	say(map[string]any{"sent": event, "key": key})
	return nil
}

func relay(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
	for _, message := range messages {
		event := strings.ToUpper(strings.ReplaceAll(message.Topic, "-", "_"))
		value, err := typed(event, message.Body)
		if err != nil {
			return consumer.ConsumeRetryLater, err
		}
		key := strings.TrimSpace(message.GetKeys())
		say(map[string]any{"read": message.Topic, "key": key, "tag": message.GetTags(), "body": value})
		if event != message.Topic {
			if err := publish(event, key, value); err != nil {
				return consumer.ConsumeRetryLater, err
			}
		}
	}
	return consumer.ConsumeSuccess, nil
}

// failing fails each message once, and those of one user until it is healed.
func failing(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
	for _, message := range messages {
		var body struct{ OrderID, UserID string }
		must(json.Unmarshal(message.Body, &body))
		attempt := message.ReconsumeTimes + 1
		if !healed.Load() && (body.UserID == unlucky || attempt == 1) {
			say(map[string]any{"failed": body.OrderID, "attempt": attempt})
			return consumer.ConsumeRetryLater, nil
		}
		say(map[string]any{"handled": body.OrderID, "attempt": attempt})
	}
	return consumer.ConsumeSuccess, nil
}

func consume(servers primitive.NamesrvAddr, group string, topics []string,
	handle func(context.Context, ...*primitive.MessageExt) (consumer.ConsumeResult, error)) rocketmq.PushConsumer {
	push, err := rocketmq.NewPushConsumer(consumer.WithNameServer(servers), consumer.WithGroupName(group),
		consumer.WithInstance(group), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		consumer.WithMaxReconsumeTimes(1))
	must(err)
	for _, topic := range topics {
		must(push.Subscribe(topic, consumer.MessageSelector{}, handle))
	}
	must(push.Start())
	return push
}

func main() {
	rlog.SetLogLevel("error")
	servers := primitive.NamesrvAddr(strings.Split(os.Args[1], ";"))
	name, topics := os.Args[2], os.Args[4:]
	unlucky = os.Args[3]
	var err error
	send, err = rocketmq.NewProducer(producer.WithNameServer(servers), producer.WithGroupName(name+"-producer"),
		producer.WithInstanceName(name+"-producer"), producer.WithQueueSelector(producer.NewHashQueueSelector()),
		producer.WithSendMsgTimeout(10*time.Second), producer.WithRetry(2))
	must(err)
	must(send.Start())
	consumers := []rocketmq.PushConsumer{consume(servers, name, topics, relay),
		consume(servers, name+"-failing", []string{"paid-order-success"}, failing)}
	say(map[string]any{"ready": true})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var order struct {
			Heal       bool
			Event, Key string
			Body       json.RawMessage
		}
		must(json.Unmarshal(lines.Bytes(), &order))
		if order.Heal {
			healed.Store(true)
			continue
		}
		value, err := typed(order.Event, order.Body)
		must(err)
		must(publish(order.Event, order.Key, value))
	}
	for _, push := range consumers {
		_ = push.Shutdown()
	}
	_ = send.Shutdown()
}
