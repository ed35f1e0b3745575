// Command shelves puts a shelf into the library, lists the shelves and takes it away again: a client that comes again when
// it is asked to, not more often than does good, and gives up in time.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	library "example.com/shelves/gen/library/v1"
)

// What was shed (RESOURCE_EXHAUSTED) never ran, and is always repeated: after the pause that the server asks for with
// grpc-retry-pushback-ms, else with back-off and jitter. What ended as UNAVAILABLE may have run, and is repeated only where
// that does no harm. While half of the calls fail, none is repeated.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [
    {
      "name": [
        {"service": "library.v1.LibraryService", "method": "GetShelf"},
        {"service": "library.v1.LibraryService", "method": "ListShelves"}
      ],
      "retryPolicy": {
        "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "5s", "backoffMultiplier": 2,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]
      }
    },
    {
      "name": [{"service": "library.v1.LibraryService"}],
      "retryPolicy": {
        "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "5s", "backoffMultiplier": 2,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]
      }
    }
  ],
  "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
}`

func run(target string) error {
	// dns:/// finds all gateways behind a name; round robin uses each. grpc-go 1.63 and newer: grpc.NewClient, and
	// insecure.NewCredentials() of its credentials.
	conn, err := grpc.Dial(target, grpc.WithInsecure(), grpc.WithDefaultServiceConfig(serviceConfig))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := library.NewLibraryServiceClient(conn)

	// One deadline for all attempts. The mesh gives up when it passes, too.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request := &library.CreateShelfRequest{ShelfId: "go", Shelf: &library.Shelf{Title: "From Go"}}
	shelf, err := client.CreateShelf(ctx, request)
	if err != nil {
		return err
	}
	listed, err := client.ListShelves(ctx, &library.ListShelvesRequest{})
	if err != nil {
		return err
	}
	fmt.Println(shelf.Name, len(listed.Shelves))
	_, err = client.DeleteShelf(ctx, &library.DeleteShelfRequest{Name: shelf.Name})
	return err
}

// explain tells what the mesh says of an error beside its status.
func explain(err error) {
	told := status.Convert(err)
	fmt.Println(told.Code(), told.Message())
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Println("reason", detail.Reason, "request id", detail.Metadata["request_id"])
		case *errdetails.RetryInfo:
			fmt.Println("come again in", time.Duration(detail.RetryDelay.Seconds)*time.Second+time.Duration(detail.RetryDelay.Nanos))
		}
	}
}

func main() {
	target := "dns:///127.0.0.1:9000"
	if len(os.Args) > 1 {
		target = os.Args[1]
	}
	if err := run(target); err != nil {
		explain(err)
		os.Exit(1)
	}
}
