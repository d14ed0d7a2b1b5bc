// franz-go under the commands of tests/cluster/README.md: one JSON command a line on stdin, one
// JSON answer a line on stdout.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const timeout = 15 * time.Second
const readMax = 20 * time.Second

type command struct {
	Do          string            `json:"do"`
	Bootstrap   string            `json:"bootstrap"`
	Topic       string            `json:"topic"`
	Partitions  int32             `json:"partitions"`
	Config      map[string]string `json:"config"`
	Names       []string          `json:"names"`
	At          any               `json:"at"`
	Before      []int64           `json:"before"`
	Plan        string            `json:"plan"`
	Out         string            `json:"out"`
	Compression string            `json:"compression"`
	Idempotent  *bool             `json:"idempotent"`
	InFlight    int               `json:"in_flight"`
	BatchBytes  int32             `json:"batch_bytes"`
	Offsets     []int64           `json:"offsets"`
	Time        *int64            `json:"time"`
}

type answer map[string]any

// A line of a plan, a note or a read. Bytes are hexadecimal; a pointer, since null is not empty.
type line struct {
	Partition         int32       `json:"partition"`
	Offset            int64       `json:"offset"`
	Timestamp         int64       `json:"timestamp"`
	AnsweredTimestamp int64       `json:"answered_timestamp,omitempty"`
	TimestampType     string      `json:"timestamp_type,omitempty"`
	Key               *string     `json:"key"`
	Value             *string     `json:"value"`
	Headers           [][]*string `json:"headers"`
}

func main() {
	client, err := kgo.NewClient(kgo.SeedBrokers(os.Args[1]), kgo.RetryTimeout(timeout))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var c command
		err := json.Unmarshal(in.Bytes(), &c)
		var a answer
		if err == nil {
			a, err = run(kadm.NewClient(client), &c)
		}
		if a == nil {
			a = answer{} // what has nothing to tell answers an empty object
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, c.Do, err)
			a = answer{"error": nameOf(err)}
		}
		json.NewEncoder(os.Stdout).Encode(a)
	}
}

// Kafka's name of an error that the broker sent, else the text.
func nameOf(err error) string {
	var kafka *kerr.Error
	if errors.As(err, &kafka) {
		return kafka.Message
	}
	return err.Error()
}

func run(admin *kadm.Client, c *command) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), readMax+timeout)
	defer cancel()
	switch c.Do {
	case "version":
		return answer{"version": version()}, nil
	case "create":
		config := map[string]*string{}
		for name, value := range c.Config {
			config[name] = kadm.StringPtr(value)
		}
		_, err := admin.CreateTopic(ctx, c.Partitions, 1, config, c.Topic)
		return nil, err
	case "describe":
		return describe(ctx, admin, c)
	case "config":
		return config(ctx, admin, c)
	case "alter":
		var changes []kadm.AlterConfig
		for name, value := range c.Config {
			changes = append(changes, kadm.AlterConfig{Name: name, Value: kadm.StringPtr(value)})
		}
		answers, err := admin.AlterTopicConfigs(ctx, changes, c.Topic)
		if err == nil {
			err = answers[0].Err
		}
		return nil, err
	case "grow":
		answers, err := admin.UpdatePartitions(ctx, int(c.Partitions), c.Topic)
		if err == nil {
			err = answers.Error()
		}
		return nil, err
	case "offsets":
		found, err := offsets(ctx, admin, c)
		return answer{"offsets": found}, err
	case "delete_records":
		before := kadm.Offsets{}
		for p, offset := range c.Before {
			before.AddOffset(c.Topic, int32(p), offset, -1)
		}
		answers, err := admin.DeleteRecords(ctx, before)
		if err == nil {
			err = answers.Error()
		}
		return nil, err
	case "delete":
		_, err := admin.DeleteTopic(ctx, c.Topic)
		return nil, err
	case "produce":
		return nil, produce(ctx, c)
	case "read":
		return nil, read(ctx, c)
	}
	return nil, errors.New("unknown command")
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/twmb/franz-go" {
				return module.Version
			}
		}
	}
	return "unknown"
}

func describe(ctx context.Context, admin *kadm.Client, c *command) (answer, error) {
	topics, err := admin.ListTopics(ctx, c.Topic)
	if err != nil {
		return nil, err
	}
	led := 0
	for _, p := range topics[c.Topic].Partitions {
		if p.Leader >= 0 {
			led++
		}
	}
	return answer{"partitions": led}, topics[c.Topic].Err
}

func config(ctx context.Context, admin *kadm.Client, c *command) (answer, error) {
	found, err := admin.DescribeTopicConfigs(ctx, c.Topic)
	if err != nil {
		return nil, err
	}
	resource, err := found.On(c.Topic, nil)
	if err == nil {
		err = resource.Err
	}
	values := map[string]string{}
	for _, entry := range resource.Configs {
		for _, name := range c.Names {
			if entry.Key == name {
				values[name] = entry.MaybeValue()
			}
		}
	}
	return answer{"config": values}, err
}

func offsets(ctx context.Context, admin *kadm.Client, c *command) ([]int64, error) {
	switch at := c.At.(type) {
	case float64:
		// kadm turns "nothing is as new" into the end of the partition.
		found, err := listed(admin.ListOffsetsAfterMilli(ctx, int64(at), c.Topic))(c)
		ends, endsErr := listed(admin.ListEndOffsets(ctx, c.Topic))(c)
		for p := range found {
			if found[p] == ends[p] {
				found[p] = -1
			}
		}
		return found, errors.Join(err, endsErr)
	case string:
		if at == "earliest" {
			return listed(admin.ListStartOffsets(ctx, c.Topic))(c)
		}
	}
	return listed(admin.ListEndOffsets(ctx, c.Topic))(c)
}

// The offsets of all partitions in order.
func listed(found kadm.ListedOffsets, err error) func(*command) ([]int64, error) {
	return func(c *command) ([]int64, error) {
		if err == nil {
			err = found.Error()
		}
		list := make([]int64, c.Partitions)
		for p := range list {
			offset, _ := found.Lookup(c.Topic, int32(p))
			list[p] = offset.Offset
		}
		return list, err
	}
}

func produce(ctx context.Context, c *command) error {
	codecs := map[string]kgo.CompressionCodec{
		"": kgo.NoCompression(), "none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(c.Bootstrap), kgo.ProducerBatchCompression(codecs[c.Compression]),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(5 * time.Millisecond),
	}
	// An idempotent producer has up to 5 requests in flight and takes no other number.
	if c.Idempotent != nil && !*c.Idempotent {
		options = append(options, kgo.DisableIdempotentWrite(),
			kgo.MaxProduceRequestsInflightPerBroker(max(c.InFlight, 1)))
	}
	if c.BatchBytes > 0 {
		options = append(options, kgo.ProducerBatchMaxBytes(c.BatchBytes))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	defer client.Close()

	notes, err := load(c.Plan)
	if err != nil {
		return err
	}
	results := make([]error, len(notes))
	for i := range notes {
		note, result := &notes[i], &results[i] // before Go 1.22 the loop has only one i
		record, err := recordOf(c.Topic, note)
		if err != nil {
			return err
		}
		client.Produce(ctx, record, func(r *kgo.Record, err error) {
			*result = err
			note.Offset = r.Offset
			note.AnsweredTimestamp = r.Timestamp.UnixMilli()
		})
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	for _, err := range results {
		if err != nil {
			return err
		}
	}
	return save(c.Out, notes)
}

func recordOf(topic string, note *line) (*kgo.Record, error) {
	key, keyErr := unhex(note.Key)
	value, valueErr := unhex(note.Value)
	record := &kgo.Record{Topic: topic, Partition: note.Partition, Key: key, Value: value,
		Timestamp: time.UnixMilli(note.Timestamp)}
	for _, header := range note.Headers {
		value, err := unhex(header[1])
		if err != nil {
			return nil, err
		}
		record.Headers = append(record.Headers, kgo.RecordHeader{Key: *header[0], Value: value})
	}
	return record, errors.Join(keyErr, valueErr)
}

func read(ctx context.Context, c *command) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Bootstrap))
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	ends, err := listed(admin.ListEndOffsets(ctx, c.Topic))(c)
	if err != nil {
		return err
	}
	starts := c.Offsets
	if c.Time != nil {
		starts, err = listed(admin.ListOffsetsAfterMilli(ctx, *c.Time, c.Topic))(c)
	} else if starts == nil {
		starts, err = listed(admin.ListStartOffsets(ctx, c.Topic))(c)
	}
	if err != nil {
		return err
	}
	lines, err := readTo(ctx, client, c.Topic, starts, ends)
	return errors.Join(err, save(c.Out, lines))
}

// Reads until each partition that starts below its end has reached it.
func readTo(ctx context.Context, client *kgo.Client, topic string, starts, ends []int64) ([]line, error) {
	ctx, cancel := context.WithTimeout(ctx, readMax)
	defer cancel()
	missing := map[int32]kgo.Offset{}
	for p := range starts {
		if starts[p] < ends[p] {
			missing[int32(p)] = kgo.NewOffset().At(starts[p])
		}
	}
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: missing})
	var lines []line
	for len(missing) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return lines, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			lines = append(lines, lineOf(r))
			if r.Offset+1 == ends[r.Partition] {
				delete(missing, r.Partition)
			}
		})
	}
	return lines, nil
}

func lineOf(r *kgo.Record) line {
	kind := "create"
	if r.Attrs.TimestampType() == 1 {
		kind = "append"
	}
	headers := [][]*string{}
	for i := range r.Headers {
		headers = append(headers, []*string{&r.Headers[i].Key, tohex(r.Headers[i].Value)})
	}
	return line{Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(),
		TimestampType: kind, Key: tohex(r.Key), Value: tohex(r.Value), Headers: headers}
}

func tohex(b []byte) *string {
	if b == nil {
		return nil
	}
	text := hex.EncodeToString(b)
	return &text
}

func unhex(text *string) ([]byte, error) {
	if text == nil {
		return nil, nil
	}
	return hex.DecodeString(*text)
}

func load(path string) ([]line, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []line
	for in := json.NewDecoder(f); in.More(); {
		var l line
		if err := in.Decode(&l); err != nil {
			return nil, err
		}
		lines = append(lines, l)
	}
	return lines, nil
}

func save(path string, lines []line) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	out := bufio.NewWriter(f)
	encoder := json.NewEncoder(out)
	for i := range lines {
		if err := encoder.Encode(&lines[i]); err != nil {
			return err
		}
	}
	return out.Flush()
}
