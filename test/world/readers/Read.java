import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.zip.GZIPInputStream;

/** Prints what comes of a response that it asks for as gzip, as it comes, and "END" where it is whole. */
class Read {
  public static void main (String[] arguments) throws Exception {
    var request = HttpRequest.newBuilder(URI.create(arguments[0])).header("accept-encoding", "gzip").build();
    var response = HttpClient.newHttpClient().send(request, BodyHandlers.ofInputStream());
    // A Reader around it would wait for more than has come: a GZIPInputStream always says that there is some.
    var in = new GZIPInputStream(response.body());
    var bytes = new byte[8192];
    for (int n; (n = in.read(bytes)) >= 0;) {
      System.out.write(bytes, 0, n);
      System.out.flush();
    }
    System.out.println("END");
  }
}
