// Labels of a photo by jpeg-web, with libcurl: classify http://localhost:8080 photo.jpg
//   g++ -std=c++17 -Wall classify.cpp -lcurl -o classify       (Debian: libcurl4-openssl-dev)
// Prints the JSON of the response; nlohmann/json or another library reads it.

#include <curl/curl.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

namespace {

size_t append(char* data, size_t size, size_t count, void* body) {
  static_cast<std::string*>(body)->append(data, size * count);
  return size * count;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: classify URL FILE\n";
    return 2;
  }
  std::ifstream file(argv[2], std::ios::binary);
  if (!file) {
    std::cerr << argv[2] << " cannot be read\n";
    return 1;
  }
  const std::string image((std::istreambuf_iterator<char>(file)), {});
  const std::string url = std::string(argv[1]) + "/classify?k=3";

  curl_global_init(CURL_GLOBAL_DEFAULT);
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), curl_easy_cleanup);
  curl_slist* list = curl_slist_append(nullptr, "Content-Type: image/jpeg");
  if (const char* key = std::getenv("JPEG_API_KEY")) {
    list = curl_slist_append(list, (std::string("Authorization: Bearer ") + key).c_str());
  }
  const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(list, curl_slist_free_all);

  std::string body;
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, image.data());
  curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(image.size()));
  curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT, 30L);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, append);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &body);
  const CURLcode failed = curl_easy_perform(curl.get());
  if (failed != CURLE_OK) {
    std::cerr << url << ": " << curl_easy_strerror(failed) << ": start the server, or correct the URL\n";
    return 1;
  }
  long status = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
  if (status != 200) {
    std::cerr << "HTTP " << status << ": " << body << "\n";
    return 1;
  }
  std::cout << body << "\n";
}
