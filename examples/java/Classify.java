// Labels of a photo by jpeg-web, with Java 11 or later: java Classify.java http://localhost:8080 photo.jpg
// Prints the JSON of the response; Java's own library cannot read it, Jackson or Gson can.

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
    public static void main(String[] arguments) throws IOException, InterruptedException {
        if (arguments.length != 2) {
            System.err.println("usage: Classify URL FILE");
            System.exit(2);
        }
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(arguments[0] + "/classify?k=3"))
            .timeout(Duration.ofSeconds(30))
            .header("Content-Type", "image/jpeg")
            .POST(BodyPublishers.ofFile(Path.of(arguments[1])));
        String key = System.getenv("JPEG_API_KEY");
        if (key != null) {
            request.header("Authorization", "Bearer " + key);
        }
        HttpResponse<String> response = HttpClient.newHttpClient().send(request.build(), BodyHandlers.ofString());
        if (response.statusCode() != 200) {
            System.err.println("HTTP " + response.statusCode() + ": " + response.body());
            System.exit(1);
        }
        System.out.println(response.body());
    }
}
