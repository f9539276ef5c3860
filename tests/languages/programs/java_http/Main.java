// com.sun.net.httpserver on a thread pool; a NullPointerException and a deep recursion are caught in each call.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.util.HexFormat;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.LongStream;

public final class Main {
    private static final AtomicInteger CALLS = new AtomicInteger();
    private static final Pattern QUESTION = Pattern.compile("\"text\": \"([^\"]*)\", \"number\": (\\d+)");

    private static int length(String text) {
        return text.length();
    }

    // The JIT's null check is a load that faults: often enough to be compiled.
    private static int caught(String nothing) {
        int caught = 0;
        for (int round = 0; round < 20_000; round++) {
            try {
                length(round % 100 == 0 ? nothing : "x");
            } catch (NullPointerException expected) {
                caught++;
            }
        }
        return caught;
    }

    private static int depth(int level) {
        return depth(level + 1) + 1;
    }

    private static boolean overflows() {
        try {
            return depth(0) < 0;
        } catch (StackOverflowError expected) {
            return true;
        }
    }

    private static void call(HttpExchange exchange) throws IOException {
        int count = CALLS.incrementAndGet();
        Matcher question = QUESTION.matcher(new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8));
        if (!question.find()) {
            exchange.sendResponseHeaders(400, -1);
            return;
        }
        byte[] random = new byte[16];
        new SecureRandom().nextBytes(random);
        long sum = LongStream.rangeClosed(0, Long.parseLong(question.group(2))).parallel().map(n -> n * n).sum();
        String answer = String.format(
            "{\"text\": \"%s\", \"count\": %d, \"sum\": %d, \"random\": \"%s\", \"caught\": %d, \"overflow\": %b, \"version\": \"%s\"}",
            question.group(1), count, sum, HexFormat.of().formatHex(random), caught(null), overflows(),
            System.getProperty("java.version"));
        byte[] body = answer.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }

    public static void main(String[] arguments) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(System.getenv("PORT"))), 0);
        server.createContext("/", Main::call);
        server.setExecutor(Executors.newFixedThreadPool(2));
        server.start();
    }
}
