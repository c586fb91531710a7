// A small head for tests: llama.cpp's own RPC client library, a model of `oracle.py`, and as much HTTP as a canary needs.
//
// Takes llama-server's words, so that the same start command serves: --host, --port, --rpc a:p,b:p, -m; the others are
// passed over. Layers are split evenly over the workers. One request at a time, as with `-np 1`. What the client library
// does where a worker is gone (it aborts) or is silent (it waits for ever) is what is to be seen.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-rpc.h"
#include "ggml.h"
#include "gguf.h"

struct Part {  // the layers of one worker
    ggml_backend_t backend = nullptr;
    ggml_tensor * input = nullptr;
    ggml_tensor * output = nullptr;
    ggml_cgraph * graph = nullptr;
};

static ggml_context * weights = nullptr;
static std::vector<Part> parts;
static std::string letters;  // as the vocabulary has them
static int64_t width = 0, specials = 0;

static ggml_tensor * local(const std::string & name) {
    ggml_tensor * found = ggml_get_tensor(weights, name.c_str());
    if (found == nullptr) { fprintf(stderr, "no tensor %s\n", name.c_str()); exit(1); }
    return found;
}

static Part load(const std::string & endpoint, int first, int last) {
    Part part;
    part.backend = ggml_backend_rpc_init(endpoint.c_str(), 0);
    if (part.backend == nullptr) { fprintf(stderr, "no worker at %s\n", endpoint.c_str()); exit(1); }
    ggml_context * remote = ggml_init({ggml_tensor_overhead() * 4096 + ggml_graph_overhead(), nullptr, true});
    std::vector<std::pair<ggml_tensor *, ggml_tensor *>> copies;
    auto take = [&](const std::string & name) {
        ggml_tensor * source = local(name);
        ggml_tensor * made = ggml_dup_tensor(remote, source);
        copies.emplace_back(made, source);
        return made;
    };
    ggml_tensor * x = part.input = ggml_new_tensor_1d(remote, GGML_TYPE_F32, width);
    for (int layer = first; layer < last; layer++) {
        const std::string name = "blk." + std::to_string(layer) + ".ffn_";
        ggml_tensor * n = ggml_rms_norm(remote, x, 1e-6f);
        ggml_tensor * gate = ggml_silu(remote, ggml_mul_mat(remote, take(name + "gate.weight"), n));
        ggml_tensor * up = ggml_mul_mat(remote, take(name + "up.weight"), n);
        x = ggml_add(remote, x, ggml_mul_mat(remote, take(name + "down.weight"), ggml_mul(remote, gate, up)));
    }
    part.output = x;
    part.graph = ggml_new_graph(remote);
    ggml_build_forward_expand(part.graph, x);
    if (ggml_backend_alloc_ctx_tensors(remote, part.backend) == nullptr) { fprintf(stderr, "no memory\n"); exit(1); }
    for (auto & [made, source] : copies) ggml_backend_tensor_set(made, source->data, 0, ggml_nbytes(source));
    return part;
}

static char next(char letter) {
    const float * embedding = static_cast<const float *>(local("token_embd.weight")->data);
    const float * output = static_cast<const float *>(local("output.weight")->data);
    const int64_t token = specials + static_cast<int64_t>(letters.find(letter));
    std::vector<float> x(embedding + token * width, embedding + (token + 1) * width);
    for (Part & part : parts) {
        ggml_backend_tensor_set(part.input, x.data(), 0, x.size() * sizeof(float));
        ggml_backend_graph_compute(part.backend, part.graph);
        ggml_backend_tensor_get(part.output, x.data(), 0, x.size() * sizeof(float));
    }
    size_t best = 0;
    double most = -1e30;
    for (size_t k = 0; k < letters.size(); k++) {
        double sum = 0;
        for (int64_t i = 0; i < width; i++) sum += x[i] * output[(specials + k) * width + i];
        if (sum > most) { most = sum; best = k; }
    }
    return letters[best];
}

// The value of a JSON member, for bodies as a canary's: {"prompt":"abc","n_predict":4}.
static std::string member(const std::string & body, const std::string & name) {
    size_t at = body.find("\"" + name + "\"");
    if (at == std::string::npos || (at = body.find(':', at)) == std::string::npos) return "";
    at = body.find_first_not_of(" :\"", at);
    return at == std::string::npos ? "" : body.substr(at, body.find_first_of("\",}", at) - at);
}

static std::string answer(const std::string & request, const std::string & body) {
    if (request.rfind("GET /health ", 0) == 0) return "{\"status\":\"ok\"}";
    const std::string prompt = member(body, "prompt");
    if (request.rfind("POST /completion ", 0) != 0 || prompt.empty() || letters.find(prompt.back()) == std::string::npos)
        return "";
    std::string text;
    const int count = std::min(64, std::max(1, atoi(member(body, "n_predict").c_str())));
    for (int n = 0; n < count; n++) text += next(text.empty() ? prompt.back() : text.back());
    return "{\"content\":\"" + text + "\",\"tokens_predicted\":" + std::to_string(count) + "}";
}

static void serve(int client) {
    std::string request;
    char buffer[4096];
    size_t end = std::string::npos, whole = 0;
    while (end == std::string::npos || request.size() < whole) {
        const ssize_t count = read(client, buffer, sizeof buffer);
        if (count <= 0 || request.size() > 65536) return;
        request.append(buffer, count);
        if (end == std::string::npos && (end = request.find("\r\n\r\n")) != std::string::npos) {
            const char * length = strcasestr(request.c_str(), "content-length:");
            whole = end + 4 + (length == nullptr ? 0 : std::min(65536, atoi(length + 15)));
        }
    }
    const std::string body = answer(request, request.substr(end + 4));
    std::ostringstream reply;
    reply << "HTTP/1.1 " << (body.empty() ? "400 Bad Request" : "200 OK") << "\r\nContent-Type: application/json\r\n"
          << "Connection: close\r\nContent-Length: " << body.size() << "\r\n\r\n" << body;
    const std::string text = reply.str();
    if (write(client, text.data(), text.size()) < 0) perror("write");
}

int main(int count, char ** arguments) {
    signal(SIGPIPE, SIG_IGN);  // a caller who gives up is no reason to end
    std::string host = "0.0.0.0", path, rpc;
    int port = 8080;
    for (int i = 1; i + 1 < count; i++) {
        const std::string word = arguments[i];
        if (word == "--host") host = arguments[++i];
        else if (word == "--port") port = atoi(arguments[++i]);
        else if (word == "--rpc") rpc = arguments[++i];
        else if (word == "-m") path = arguments[++i];
    }
    gguf_context * file = gguf_init_from_file(path.c_str(), {false, &weights});
    if (file == nullptr) { fprintf(stderr, "no model at %s\n", path.c_str()); return 1; }
    width = local("token_embd.weight")->ne[0];
    const int64_t tokens = gguf_find_key(file, "tokenizer.ggml.tokens");
    for (size_t n = 0; n < gguf_get_arr_n(file, tokens); n++) {
        const std::string token = gguf_get_arr_str(file, tokens, n);
        if (token.size() == 1) letters += token; else specials++;
    }
    const int layers = static_cast<int>(gguf_get_val_u32(file, gguf_find_key(file, "llama.block_count")));
    std::vector<std::string> endpoints;
    std::istringstream list(rpc);
    for (std::string endpoint; std::getline(list, endpoint, ',');) endpoints.push_back(endpoint);
    if (endpoints.empty()) { fprintf(stderr, "--rpc names no worker\n"); return 1; }
    const int size = static_cast<int>(endpoints.size());
    for (int n = 0; n < size; n++) parts.push_back(load(endpoints[n], layers * n / size, layers * (n + 1) / size));
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_port = htons(port);
    inet_pton(AF_INET, host.c_str(), &where.sin_addr);
    const int yes = 1, server = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(server, reinterpret_cast<sockaddr *>(&where), sizeof where) != 0 || listen(server, 16) != 0) {
        perror("listen");
        return 1;
    }
    fprintf(stderr, "serving %d layers on %d workers\n", layers, size);
    for (;;) {
        const int client = accept(server, nullptr, nullptr);
        if (client < 0) continue;
        serve(client);
        close(client);
    }
}
