// Labels of a photo by jpeg-web, with Java 11 or later: java Classify.java http://localhost:8080 photo.jpg
// Prints the JSON of the response; Java's own library cannot read it, Jackson or Gson can.

import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Path;
import java.time.Duration;

public final class Classify {
    public static void main(String[] arguments) throws InterruptedException {
        if (arguments.length != 2) {
            System.err.println("usage: Classify URL FILE");
            System.exit(2);
        }
        String url = arguments[0] + "/classify?k=3";
        try {
            HttpResponse<String> response = classify(url, Path.of(arguments[1]));
            if (response.statusCode() != 200) {
                fail("HTTP " + response.statusCode() + ": " + response.body());
            }
            System.out.println(response.body());
        } catch (FileNotFoundException missing) {
            fail(arguments[1] + " cannot be read");
        } catch (IllegalArgumentException | IOException failed) {
            // Of a refused connection, HttpClient has no message.
            String cause = failed.getMessage() != null ? failed.getMessage() : failed.getClass().getSimpleName();
            fail(url + ": " + cause + ": start the server, or correct the URL");
        }
    }

    private static HttpResponse<String> classify(String url, Path file) throws IOException, InterruptedException {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url))
            .timeout(Duration.ofSeconds(30))
            .header("Content-Type", "image/jpeg")
            .POST(BodyPublishers.ofFile(file));
        String key = System.getenv("JPEG_API_KEY");
        if (key != null) {
            request.header("Authorization", "Bearer " + key);
        }
        return HttpClient.newHttpClient().send(request.build(), BodyHandlers.ofString());
    }

    private static void fail(String line) {
        System.err.println(line);
        System.exit(1);
    }
}
