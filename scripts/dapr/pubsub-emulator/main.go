// A server that speaks Google Cloud Pub/Sub's own protocol, in memory: the fake of Google's client library, which the
// Dapr component dials when its `endpoint` is set. Nothing of it outlives the process.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"cloud.google.com/go/pubsub/pstest"
)

func main() {
	port := flag.Int("port", 0, "the loopback port to listen on")
	flag.Parse()
	server := pstest.NewServerWithAddress(fmt.Sprintf("127.0.0.1:%d", *port))
	defer server.Close()
	log.Printf("serving Pub/Sub on %s", server.Addr)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
