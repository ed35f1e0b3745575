import com.example.library.v1.CreateShelfRequest;
import com.example.library.v1.DeleteShelfRequest;
import com.example.library.v1.LibraryServiceGrpc;
import com.example.library.v1.ListShelvesRequest;
import com.example.library.v1.Shelf;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/**
 * Puts a shelf into the library, lists the shelves and takes it away again: a client that comes again when it is asked to,
 * not more often than does good, and gives up in time.
 */
public final class Shelves {
  private static final String SERVICE = "library.v1.LibraryService";

  /**
   * What was shed (RESOURCE_EXHAUSTED) never ran, and is always repeated: after the pause that the server asks for with
   * grpc-retry-pushback-ms, else with back-off and jitter. What ended as UNAVAILABLE may have run, and is repeated only
   * where that does no harm. While half of the calls fail, none is repeated. Numbers are doubles, as in JSON.
   */
  private static Map<String, ?> serviceConfig() {
    List<?> reads = List.of(
        Map.of("service", SERVICE, "method", "GetShelf"), Map.of("service", SERVICE, "method", "ListShelves"));
    return Map.of(
        "loadBalancingConfig", List.of(Map.of("round_robin", Map.of())),
        "methodConfig", List.of(
            Map.of("name", reads, "retryPolicy", retries("RESOURCE_EXHAUSTED", "UNAVAILABLE")),
            Map.of("name", List.of(Map.of("service", SERVICE)), "retryPolicy", retries("RESOURCE_EXHAUSTED"))),
        "retryThrottling", Map.of("maxTokens", 10.0, "tokenRatio", 0.1));
  }

  private static Map<String, ?> retries(String... codes) {
    return Map.of(
        "maxAttempts", 4.0, "initialBackoff", "0.1s", "maxBackoff", "5s", "backoffMultiplier", 2.0,
        "retryableStatusCodes", List.of(codes));
  }

  public static void main(String[] args) throws InterruptedException {
    // dns:/// finds all gateways behind a name; round robin uses each.
    ManagedChannel channel = ManagedChannelBuilder.forTarget(args.length > 0 ? args[0] : "dns:///127.0.0.1:9000")
        .usePlaintext()
        .enableRetry()
        .defaultServiceConfig(serviceConfig())
        .build();
    try {
      // One deadline for all attempts, and for each call made with this stub. The mesh gives up when it passes, too.
      LibraryServiceGrpc.LibraryServiceBlockingStub library =
          LibraryServiceGrpc.newBlockingStub(channel).withDeadlineAfter(10, TimeUnit.SECONDS);
      Shelf shelf = library.createShelf(CreateShelfRequest.newBuilder()
          .setShelfId("java").setShelf(Shelf.newBuilder().setTitle("From Java")).build());
      int count = library.listShelves(ListShelvesRequest.getDefaultInstance()).getShelvesCount();
      System.out.println(shelf.getName() + " " + count);
      library.deleteShelf(DeleteShelfRequest.newBuilder().setName(shelf.getName()).build());
    } catch (StatusRuntimeException error) {
      explain(error);
      System.exit(1);
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
  }

  /** Tells what the mesh says of an error beside its status. */
  private static void explain(StatusRuntimeException error) {
    System.out.println(error.getStatus().getCode() + " " + error.getStatus().getDescription());
    com.google.rpc.Status told = StatusProto.fromThrowable(error);
    for (Any detail : told == null ? List.<Any>of() : told.getDetailsList()) {
      try {
        if (detail.is(ErrorInfo.class)) {
          ErrorInfo info = detail.unpack(ErrorInfo.class);
          System.out.println("reason " + info.getReason() + " request id " + info.getMetadataOrThrow("request_id"));
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          System.out.println("come again in " + (delay.getSeconds() * 1000 + delay.getNanos() / 1_000_000) + " ms");
        }
      } catch (InvalidProtocolBufferException broken) {
        System.out.println("details that cannot be read: " + broken.getMessage());
      }
    }
  }
}
