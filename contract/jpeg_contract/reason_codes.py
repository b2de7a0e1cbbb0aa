"""All reason codes with their meaning and remedy: docs/reference/reason-codes.md is made from this table.

A code is stable: programs compare it. A message names the file, the option and the value; this table says what its code
means in general. A unit test requires an entry for every code that the code can give, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class ReasonCode(NamedTuple):
    """What a code says.

    Attributes:
        meaning: What is wrong.
        remedy: What to do.
    """

    meaning: str
    remedy: str


_IMAGES = {
    "empty": ("The image has no bytes.", "Send the content of the file."),
    "not_jpeg": (
        "The bytes are not an image of a format that the model takes. The message names the format they resemble.",
        "Send a JPEG, or list the format in `formats` of the recipe and build again.",
    ),
    "invalid_base64": (
        "The text begins as the base64 of a JPEG or as a `data:` URL, and is not valid base64.",
        "Encode the whole file as base64, or send its bytes.",
    ),
    "truncated": ("The image ends early.", "Send the whole file: an upload or a download was interrupted."),
    "corrupt": ("The decoder cannot read the image.", "Open the file in a viewer; save or download it again."),
    "unsupported": (
        "An image: a variant of its format that is not decoded, such as 12 bits, lossless or arithmetic JPEG. "
        "From the client: the server does not know the request.",
        "Save the image as a baseline or progressive JPEG. Check that the address belongs to a Triton server or its "
        "gateway.",
    ),
    "too_many_bytes": ("The encoded image is longer than `max_image_bytes`.", "Send it smaller, or raise the limit."),
    "too_many_pixels": ("Width times height is more than `max_pixels`.", "Send it smaller, or raise the limit."),
    "too_many_scans": (
        "A progressive image has more scans than `max_scans`.",
        "Save it with fewer scans or as a baseline JPEG, or raise the limit.",
    ),
    "too_much_work": (
        "Decoding would take longer than `max_decode_ms`, or the header has an absurd number of parts.",
        "Send the image smaller or not progressive, or raise the limit.",
    ),
    "too_much_memory": (
        "Decoding would need more memory than `max_decode_mib`.",
        "Send the image smaller or not progressive, or raise the limit.",
    ),
    "not_finite": (
        "The classifier returned NaN or infinity.",
        "For one image of many: report it to the operator. In a build: check the weights and `[normalisation]`.",
    ),
    "internal": (
        "A fault of the server or the application, not of the request.",
        "Read the server's log: it has the traceback that clients do not get.",
    ),
    "image_refused": (
        "The server refused the image and gave no code of its own.",
        "Read the message; update the server if it is older than the client.",
    ),
    "invalid_image": (
        "The client cannot read the object as an image, or not encode it as a JPEG.",
        "Pass a path, bytes, a file object, a Pillow image or an array.",
    ),
    "invalid_array": (
        "An array is not an RGB image.",
        "Pass dtype uint8 and the shape (height, width, 3); OpenCV's BGR needs `array[:, :, ::-1]`.",
    ),
    "not_a_file": ("The path is a folder or a device.", "Name a regular file."),
    "file_missing": ("A file or folder does not exist.", "Correct the path."),
    "file_unreadable": ("A file exists and cannot be read.", "Correct its permissions, or copy it to a local disk."),
    "folder_unreadable": ("A folder cannot be searched.", "Correct its permissions; the other folders were searched."),
}

_REQUESTS = {
    "request_too_long": (
        "The images of one request together take longer to decode than others shall wait (`max_wait_ms`).",
        "Send fewer images in one request; `jpeg_client` splits it itself.",
    ),
    "queue_full": (
        "Too many requests wait, or large images of others are decoded first.",
        "Send the request again later, or send fewer at a time; add servers if it lasts.",
    ),
    "server_stopping": ("The server drains before it stops.", "Send the request to another server, or again later."),
    "deadline_passed": (
        "The `deadline` of the request had passed before its work began.",
        "Allow more time, or compare the clocks of both machines.",
    ),
    "refused_with_batch": (
        "Another request of the same batch has a wrong length inside, and Triton refused them together.",
        "Send the request again, as the client does by itself.",
    ),
    "bad_shape": ("The request has a batch of 0.", "Send `IMAGE` with the shape [N, 1], N at least 1."),
    "invalid_k": ("`k` is not an integer from 1 to the number of classes.", "Correct `k`, or leave it out."),
    "invalid_threshold": ("`threshold` is not a number from 0 to 1.", "Correct it, or leave it out."),
    "invalid_parameters": (
        "A parameter, or an HTTP header that becomes one, is not UTF-8 text.",
        "Send `k`, `threshold` and `deadline` as plain ASCII.",
    ),
    "unknown_model": (
        "No model of this name exists, or it is not loaded.",
        "Correct the name (`model=`, `--model`, `--name`), or load the model.",
    ),
    "model_not_ready": (
        "The server knows the model and does not serve it now: it is loading, unloading or stopping.",
        "Try again; `jpeg-serve probe` and the server's log say more.",
    ),
    "request_too_large": (
        "The request is longer than the server or gateway takes.",
        "Send fewer or smaller images at a time, or raise the gateway's GATEWAY_MAX_BODY_MB.",
    ),
    "too_many_requests": (
        "The gateway limits the request rate.",
        "Send requests less often, or raise `timeout_s`: the client waits and tries again.",
    ),
    "request_refused": ("The server refuses the request.", "Read the message: it is Triton's."),
    "request_failed": ("A request of a measurement failed.", "Run `jpeg-classify doctor` against the same address."),
}

_CONNECTION = {
    "client_error": ("A failure of the client without a code of its own.", "Read the message."),
    "client_closed": ("The client was closed before this call.", "Create a new one, or keep it in a `with` block."),
    "invalid_argument": ("An argument of the client cannot be used.", "Correct the argument that the message names."),
    "invalid_batch_size": ("`batch_size` is below 1.", "Give at least 1."),
    "invalid_concurrency": ("`concurrency` is below 1.", "Give at least 1."),
    "invalid_order": ("`order` is unknown.", 'Give "input" or "completion".'),
    "invalid_timeout": ("The timeout is not above 0, or longer than a system timer takes.", "Correct `timeout_s`."),
    "invalid_url": (
        "The server's URL has another scheme or form, or holds a user or a key.",
        "Write grpc://HOST:PORT or http://HOST:PORT, with TLS grpcs:// or https://.",
    ),
    "unknown_host": ("The host name has no address.", "Correct the name, or the name service."),
    "unreachable": (
        "Nothing accepts connections at the address.",
        "Start the server, open its port, or correct the URL; in a container, publish the port.",
    ),
    "server_unavailable": (
        "No Triton server responds at the address.",
        "Check that it runs, and that the port is the one of the protocol: 8000 HTTP, 8001 gRPC.",
    ),
    "server_timeout": (
        "No response in time.",
        "Send fewer images at a time, raise the time limit, or look for a server that is overloaded.",
    ),
    "request_lost": (
        "The connection ended before the response; the request may have been the cause.",
        "Send it once more; if it ends the server again, send its images one by one.",
    ),
    "worker_died": (
        "A worker process of the server ended, maybe because of a request. `jpeg-serve` replaces the server.",
        "Send the request once more. The server's log has the cause.",
    ),
    "invalid_response": (
        "The response cannot be read, or does not fit the request.",
        "Check that the address belongs to this project's model and not to another server or a proxy's login page.",
    ),
    "unexpected_response": (
        "The response is not Triton's, or lacks an output of the ensemble.",
        "Check the address and the name of the model.",
    ),
    "wrong_checksum": (
        "The response belongs to another image: its checksum differs. The client discards it.",
        "Send the request again, and restart the server; report it if it occurs twice.",
    ),
    "protocol_mismatch": (
        "The port speaks another protocol.",
        "Use the port of the protocol: 8000 HTTP, 8001 gRPC, 8080 `jpeg-web`.",
    ),
    "tls_mismatch": ("One side speaks TLS and the other does not.", "Write grpcs:// or https://, or check the port."),
    "certificate_refused": (
        "The server's certificate is not trusted, has expired, or is for another host.",
        "Pass the certificate of its CA (`ca=`, `--ca`), use the host name in it, or let the operator renew it.",
    ),
    "invalid_ca": ("The file of trusted certificates holds none.", "Give a file in PEM format."),
    "ca_without_tls": ("Trusted certificates are given for a connection without TLS.", "Write grpcs:// or https://."),
    "invalid_certificate": (
        "The client's certificate and private key are not a pair.",
        "Give both, in PEM format and without a passphrase.",
    ),
    "certificate_without_tls": ("A client's certificate is given without TLS.", "Write grpcs:// or https://."),
    "api_key_required": (
        "The gateway requires an API key.",
        "Pass it with `Client(api_key=...)` or `--api-key-file FILE`.",
    ),
    "api_key_rejected": ("The API key is unknown or has expired.", "Obtain a new one from the operator."),
    "invalid_api_key": ("The API key has characters that no key has.", "Copy it again: one line without quotes."),
    "unencrypted_api_key": (
        "The API key would travel unencrypted to another machine.",
        "Write grpcs:// or https://, or send no key.",
    ),
    "invalid_header": ("A header's name or value is not valid.", "Give printable ASCII without line breaks."),
    "forbidden": ("The server or gateway denies access.", "Let the operator grant it."),
    "not_found": (
        "Nothing is at this path.",
        "Check the address; the gateway opens inference, health and metadata only.",
    ),
    "resize_unknown": (
        "`shrink`: the server's config does not state how images are resized, or in a way that this client is too old "
        "for.",
        "Update the client, or leave out `shrink`.",
    ),
    "not_an_ensemble": (
        "The model is not an ensemble of this project: no step makes the labels.",
        "Name the ensemble, `jpeg_classifier` by default.",
    ),
    "invalid_column": (
        "A column of an Arrow or Parquet table cannot hold images, or a name occurs twice.",
        "Name the column of images; rename or drop the others.",
    ),
    "grpc_required": ("Pixels travel over gRPC only.", "Write grpc://HOST:PORT."),
    "invalid_pixels": (
        "The array does not have the shape that the classifier takes, or lies in other memory.",
        "Pass uint8 (N, height, width, 3) in the size that the message names.",
    ),
    "invalid_shared_memory": ("The kind of shared memory is unknown.", 'Give "system", "cuda" or None.'),
    "not_this_machine": (
        "Shared memory needs the server's own machine.",
        "Write localhost, or leave `shared_memory` out.",
    ),
    "shared_memory_full": (
        "Shared memory, /dev/shm, has no room for the images.",
        "Send fewer at a time, free some of it, or make it larger: `docker run --shm-size 1g`.",
    ),
    "shared_memory_refused": (
        "The server does not open shared memory to this client.",
        "Start it with `--shared-memory-key-file`, and pass that key.",
    ),
    "shared_memory_unavailable": ("This machine has no such memory to share.", "Leave `shared_memory` out."),
    "unknown_region": (
        "The server has lost the client's region, as after a restart.",
        "Send the request again: the client registers the region anew.",
    ),
}

_COMMANDS = {
    "invalid_call": ("Options or arguments are wrong, or do not go together.", "See the command's --help."),
    "interrupted": ("Ctrl-C or SIGTERM ended the command.", "Run it again; `--resume` continues a file of labels."),
    "package_missing": (
        "A Python package is not installed in this environment.",
        "Run the `pip install` command of the message.",
    ),
    "failed": ("A failure without a code of its own.", "Read the message."),
    "no_images": ("The folders hold no image files.", "Name files, or a folder with the suffixes of the message."),
    "output_exists": ("The output file exists.", "Continue it with `--resume`, or remove it."),
    "output_in_use": ("Another run writes the output file.", "Wait for it, or name another file."),
    "output_failed": (
        "The output cannot be written: the disk is full, or the file is not writable.",
        "Free some space, and continue with `--resume`.",
    ),
    "other_columns": ("The output file comes from a run with another `-k`.", "Continue it with the same options."),
}

_WEB = {
    "no_image": ("The request holds no image.", "Send one as the body, or as a multipart file."),
    "invalid_multipart": ("The multipart body cannot be read.", "Let the HTTP library make it: `curl -F image=@FILE`."),
    "receive_timeout": ("The body comes too slowly.", "Send it faster, or in smaller requests."),
    "busy": ("Too many bodies are being received.", "Try again later."),
    "method_not_allowed": ("The path has no such method.", "See /docs of the application."),
    "invalid_timeout_s": ("The query parameter `timeout_s` is out of range.", "Correct it, or leave it out."),
    "no_model": ("`jpeg-web` was given no model.", "Name at least one with `--model`."),
    "invalid_metrics_url": ("`--metrics-url` is no URL.", "Write http://HOST:PORT/metrics."),
    "invalid_origin": (
        "An allowed origin is no origin.",
        "Write SCHEME://HOST[:PORT] without a path, as https://example.org, or *.",
    ),
    "web_ended": (
        "`jpeg-web`, which `jpeg-serve --web` started, ended.",
        "Read the lines above: they have the cause. It is started again, unless it ended at once several times.",
    ),
    "web_not_started": ("`jpeg-web` does not start.", "Read the lines above: they have the cause."),
}

_GATEWAY = {
    "tls_required": ("The gateway's port speaks TLS only.", "Write https:// or grpcs://."),
    "servers_busy": ("Every server behind the gateway is busy or down.", "Try again after a second; add servers."),
    "json_too_long": (
        "The JSON part of a request is too long, or its length is not stated.",
        "Send images as binary data, as `jpeg_client` and tritonclient do.",
    ),
    "parameter_refused": (
        "The gateway refuses parameters that could reach the server's memory or end it.",
        "Request `LABEL`, choose the number of labels with `k`, and send images in the request.",
    ),
    "bad_request": ("The request is malformed.", "Use an HTTP library; look for a proxy that changes requests."),
    "path_too_long": ("The path is too long.", "Send `k` and others as parameters or headers."),
    "unsupported_encoding": ("The body is compressed.", "Send the bytes uncompressed: a JPEG is compressed already."),
}

_START = {
    "serve_failed": ("A failure of `jpeg-serve` without a code of its own.", "Read the message."),
    "prerequisite_missing": ("This machine lacks something that serving needs.", "Do what the message says."),
    "no_tritonserver": (
        "There is no tritonserver, neither on the PATH nor from the package nvidia-pytriton.",
        "`pip install 'triton-jpeg-classifier[serve]'`, or use NVIDIA's container.",
    ),
    "python_unsupported": (
        "The embedded Triton has no Python backend for this version of Python.",
        "Use Python 3.10, 3.11 or 3.12.",
    ),
    "libpython_missing": (
        "This Python has no shared libpython3.x.so, which the Python backend links against.",
        "Install the distribution's Python, or build Python with `--enable-shared`.",
    ),
    "cache_not_writable": (
        "The cache folder cannot be written.",
        "Set XDG_CACHE_HOME to a folder that can; in a read-only container, mount one.",
    ),
    "port_taken": (
        "The port is in use, or this user may not open it.",
        "Choose another (`--http-port`, `--grpc-port`, `--metrics-port`, `--web-port`), 0 for a free one, or end the "
        "program that uses it.",
    ),
    "port_used_twice": ("One port is given for two services.", "Give each its own port."),
    "known_killers": (
        "The server would listen beyond 127.0.0.1, and a single request can end this Triton.",
        "Put the gateway in front, and add `--behind-gateway`.",
    ),
    "invalid_key_file": (
        "The file of the key of shared memory holds none, or cannot be read.",
        "Write one line: `openssl rand -hex 32`.",
    ),
    "invalid_path": ("A folder's name cannot stand in a systemd unit.", "Rename the folder."),
    "ended_early": (
        "tritonserver ended before it was ready.",
        "Read the reasons in the message; `jpeg-serve check` loads the repository once.",
    ),
    "not_ready_in_time": (
        "The models did not load in time.",
        "Raise `--ready-timeout-s`: an engine or a network of many megabytes loads slowly.",
    ),
    "not_started": ("The server was not started, or was stopped.", "Call `start` first."),
    "trial_load_failed": (
        "`jpeg-serve check` loaded the repository in a real tritonserver, and Triton refused the model.",
        "Correct what Triton says; build the model again if its artefact is named.",
    ),
}

_WATCH = {
    "server_died": ("tritonserver ended by itself. It is replaced.", "Read the log before it; see the threat model."),
    "stopped": ("The server or a worker is stopped by a signal. It is replaced.", "Find who sends SIGSTOP."),
    "hangs": ("The server or a worker gives no answer. It is replaced.", "Read the log; look at the machine's load."),
    "fails": ("The server answers a known photo with an error. It is replaced.", "Read the log of the models."),
    "stalled": (
        "A worker was stopped or frozen, and ends itself, so that no late answer goes to another request.",
        "None if it is rare. Otherwise give the machine more CPU: it was frozen for longer than half a second.",
    ),
    "server_ended": ("No server can be started any more.", "Correct what the message says, and start again."),
    "no_label": (
        "The server gives no label for a known photo.",
        "Read the message; `jpeg-serve check` examines the repository.",
    ),
    "wrong_label": (
        "The server labels a known photo otherwise than the report: network and labels do not belong together.",
        "Build them again, then restart the server.",
    ),
    "not_a_classifier": (
        "A model is not an image classifier of this project; or a network does not classify.",
        "Name an ensemble of this project; take a checkpoint of a classifier.",
    ),
    "inference_restricted": (
        "The server accepts inferences with a key only, so that the probe is skipped.",
        "Probe through a client that has the key.",
    ),
    "overloaded": ("The server refuses the probe's photo because its queue is full.", "None: it is alive."),
    "timeout": ("The server did not respond to the probe in time.", "Raise `--timeout-s`, or look at its load."),
}

_RELOAD = {
    "no_server": (
        "This user has no `jpeg-serve` that serves this repository.",
        "Start it, or run the command as the user who did, with the same `--model-repository`.",
    ),
    "several_servers": ("Several servers run here.", "Choose one with `--http-port`."),
    "other_environment": (
        "The server runs in another Python environment.",
        "Run the command from the environment that started the server.",
    ),
    "key_refused": (
        "The server refuses the key of management: it was started with another restriction.",
        "Give the same protocol restriction after `--`.",
    ),
    "server_unreachable": (
        "No server responds at the address.",
        "Check that it runs, and its port.",
    ),
    "server_stopped": ("The server stopped meanwhile.", "Start it: it loads the current content."),
    "reload_in_progress": ("Another reload of this server is running.", "Try again when it is done."),
    "load_failed": (
        "Triton did not load a model. The server continues with the old one.",
        "Correct what the message says, and reload again.",
    ),
    "restart_needed": (
        "More than the classifier changed, so that old and new steps would run together.",
        "Run `jpeg-serve restart`.",
    ),
}

_CHECK = {
    "repository_problems": ("The repository cannot be served.", "Correct each line of the message; each has a code."),
    "repository_missing": ("The model repository does not exist.", "Name it with `--model-repository`, or build one."),
    "repository_empty": ("The repository holds no model.", "Build one with `jpeg-build`."),
    "config_missing": ("A model has no config.pbtxt.", "Build it again, or restore the file from git."),
    "invalid_config": ("A config.pbtxt cannot be read or parsed.", "Correct it at the line of the message."),
    "name_mismatch": ("`name` in a config is not the name of its folder.", "Make them equal, or remove `name`."),
    "backend_unset": ("A config has neither `backend` nor `platform`.", "Add `backend`."),
    "backend_missing": (
        "No backend of this name is here.",
        "Name the folder of the project's with `--backends`, or use a tritonserver that has it.",
    ),
    "native_backend_missing": ("`--serve-with` wants a native backend that is not here.", "Remove the option."),
    "native_backend_refused": (
        "The native backend cannot serve what this project builds.",
        "Let the Python-based one serve it: `--serve-with BACKEND=python`.",
    ),
    "platform_mismatch": ("`platform` and `backend` do not go together.", "Remove `platform`."),
    "platform_unknown": ("Triton knows no such `platform`.", "Write `backend` instead."),
    "runtime_mismatch": ("`runtime` names another backend's library.", "Remove `runtime`."),
    "max_batch_size": ("`max_batch_size` is below 1.", "Set at least 1: the stages exchange batches."),
    "max_batch_size_mismatch": (
        "The ensemble takes larger batches than a step.",
        "Lower the one, or raise the other.",
    ),
    "preferred_batch_size": ("`preferred_batch_size` is above `max_batch_size`.", "Lower it, or remove it."),
    "priority_level": ("The priority levels of the queue do not fit together.", "Correct or remove them."),
    "batching": ("The model does not read `batch_input` and `batch_output`.", "Remove them."),
    "scheduling": ("The model needs another scheduler than the config's.", "Write `dynamic_batching { }`."),
    "tensor_missing": ("A config lacks an input or output.", "Add the tensor that the message shows."),
    "tensor_unknown": ("A config has a tensor that the model does not know.", "Remove it."),
    "tensor_duplicate": ("A tensor occurs more than once.", "Remove the others."),
    "tensor_type": ("A tensor's `data_type` is missing or wrong.", "Write the type of the message."),
    "tensor_shape": ("A tensor's `dims` are wrong.", "Write the dims of the message."),
    "tensor_option": ("A tensor has an option that the model does not support.", "Remove it."),
    "instance_count": ("The number of instances is below 1.", "Write 1 or more."),
    "instance_kind": ("The instances are put where the model cannot run.", "Write the kind of the message."),
    "instance_profile": ("`instance_group` has a `profile`, which only TensorRT has.", "Remove it."),
    "graph_level": ("The optimisation level is none of the backend's.", "Write one of the message."),
    "invalid_setting": ("A parameter has a value that cannot be used.", "Correct it as the message says."),
    "unknown_parameter": ("A parameter is unknown.", "Correct its name: the message has the nearest."),
    "missing_parameter": ("A parameter is missing.", "Build the model again with `jpeg-build`."),
    "parameter_without_value": ("A parameter has no `string_value`.", "Write one, or remove the parameter."),
    "parameter_conflict": (
        "Parameters do not go together, or not with the artefact's precision.",
        "Remove those that the message names.",
    ),
    "invalid_geometry": ("Sizes, filter and fill do not go together.", "Correct them as the message says."),
    "path_outside": (
        "A file is named outside of its folder. Recipes and configs name files beside themselves only.",
        "Put the file into that folder, and name it there.",
    ),
    "environment_missing": ("EXECUTION_ENV_PATH names what does not exist.", "Correct or remove it."),
    "model_missing": ("A model, or its model.py, is missing.", "Build it again, or restore the file from git."),
    "model_invalid": ("A model.py cannot be compiled, or lacks its class.", "Restore it from git."),
    "version_missing": ("A model has no version to serve.", "Build it, or create an empty folder 1 for an ensemble."),
    "version_folder": (
        "A folder is not a version, and Triton takes it for one.",
        "Rename or remove it.",
    ),
    "version_policy": ("`version_policy` serves no version.", "Correct or remove it."),
    "artefact_missing": ("The file that Triton would load is missing.", "Build it with `jpeg-build`."),
    "artefact_altered": ("The artefact is not the one that was checked: its digest differs.", "Build it again."),
    "artefact_shape": ("The config's dims are not those of the artefact.", "Build it again."),
    "report_missing": ("The artefact has no report, so that nobody knows what was checked.", "Build it again."),
    "report_unreadable": ("The report is damaged, or not one of jpeg-build.", "Build it again."),
    "report_outdated": ("The report is of an earlier jpeg-build, which checked less.", "Build it again."),
    "report_newer": ("The report is of a newer jpeg-build.", "Update this installation, or build it again."),
    "precision_differs": (
        "The config states another precision than the artefact's.",
        "Run the `jpeg-build use` command of the message, or correct the entry.",
    ),
    "package_version": ("The artefact was built with another version of a package.", "Build it again."),
    "tensorrt_version": (
        "The engine was built with another TensorRT, which does not load it here.",
        "Build it again on this machine, or with `--version-compatible`.",
    ),
    "engine_differs": (
        "TensorRT does not take the engine: it is for another version or another GPU.",
        "Build it again on this machine.",
    ),
    "gpu_missing": (
        "There is no NVIDIA GPU that can be used.",
        "Check `nvidia-smi`, and `docker run --gpus all`; or take a form for CPUs: onnx or openvino.",
    ),
    "gpus_named": (
        "A model names its GPUs, and each of several servers sees one GPU only, which it numbers 0.",
        "Remove `gpus` from its `instance_group`, so that each server uses its own; or leave out `--servers`.",
    ),
    "gpu_capability": (
        "The engine is for GPUs of another compute capability.",
        "Build it on this machine, or for each kind with `--per-gpu`.",
    ),
    "cannot_be_served": (
        "The artefact or its config cannot be loaded.",
        "Do what the message says; mostly: build it again with the versions that are here.",
    ),
    "crop_size_mismatch": ("`preprocess` makes images of another size than its output.", "Build the recipe again."),
    "recipe_mismatch": ("The steps come from different recipes.", "Build the recipe of the message again."),
    "ensemble_empty": ("The ensemble has no steps.", "Restore its config from git, or build it again."),
    "ensemble_field": ("Triton refuses this field for an ensemble.", "Remove it, or write it for a step."),
    "ensemble_cycle": ("Steps of the ensemble wait for each other.", "Correct the tensors of the maps."),
    "edge_without_source": ("A step takes a tensor that nothing makes.", "Correct its name in the maps."),
    "edge_without_target": ("Nothing takes a tensor.", "Remove it, or map it to an input."),
    "edge_duplicate": ("A tensor is made twice.", "Rename one of the two."),
    "edge_type": ("A tensor has different types at its two ends.", "Build both steps from one recipe."),
    "edge_shape": ("A tensor has different dims at its two ends.", "Build both steps from one recipe."),
    "step_unknown": ("A step names a model that is not there.", "Correct the word, or build that classifier."),
    "step_version": ("A step names a version that is not served.", "Write `model_version: -1`, or choose again."),
    "step_input_missing": ("A step gets nothing for one of its inputs.", "Map a tensor to it."),
    "step_tensor_unknown": ("A step maps a tensor that its model does not have.", "Correct the name."),
    "warm_up": ("A `model_warmup` does not fit the model.", "Correct it, or remove it."),
    "warm_up_file": ("The data of a `model_warmup` are missing or wrong.", "Build the model again, or remove it."),
}

_RECIPES = {
    "invalid_recipe": ("The recipe is wrong.", "Correct the line that the message names."),
    "invalid_toml": ("The recipe is not valid TOML.", "Correct the line that the message names."),
    "recipe_not_found": ("There is no such recipe.", "Give its path, a name of the project's, or a network."),
    "not_a_recipe": ("The file is an artefact or no recipe.", "Give a recipe, or the network it was made from."),
    "recipe_exists": ("The recipe exists already.", "Build with it, edit it, or write it anew with `--force`."),
    "recipe_missing": ("The recipe of an artefact is not in this project.", "Name it with `--recipe FILE`."),
    "recipe_differs": (
        "The artefact comes from another recipe or an older state of it.",
        "Build it again with this recipe.",
    ),
    "unknown_key": ("The recipe has a key that the table does not know.", "Correct it: the message has the nearest."),
    "missing_key": ("The recipe lacks a key.", "Add it; the message says what it must be."),
    "invalid_value": ("A key's value is of another type or out of range.", "Write what the message says."),
    "missing_facts": (
        "The network does not show all that a recipe needs.",
        "Give the options that the message lists, or answer the questions on a terminal.",
    ),
    "invalid_labels": (
        "The label file is missing, unreadable, or has an empty line.",
        "Give a UTF-8 text file whose line i names class i.",
    ),
    "no_labels": ("The weights do not name their classes.", "Give a text file, one label per line."),
    "labels_unknown": (
        "The names of the photos' classes are not the labels of the network.",
        "Rename the folders or the rows of the table: the message has the nearest labels.",
    ),
    "classes_differ": (
        "`classes`, the labels and the network do not agree.",
        "Set `classes` to the network's, and give as many labels.",
    ),
    "differs_from_weights": (
        "The recipe prepares images otherwise than the weights were trained.",
        "Correct the recipe, or add `differs_from_weights = true`.",
    ),
    "crop_size_differs": (
        "The network takes another size than `crop_size`.",
        "Set `crop_size` to the size of the message.",
    ),
    "channels_differ": (
        "The network takes another number of channels than the normalisation has.",
        "Correct `color`, `mean` and `std`.",
    ),
    "gray_network": ("The network takes one channel.", 'Set `color = "GRAY"`, with one number for mean and std.'),
    "layout_differs": (
        "The network's axes are in another order than `layout`, or one that the form cannot run.",
        "Set `layout`, or export the network with channels last.",
    ),
    "layout_unknown": ("The shape leaves the order of the axes open.", "Set `layout` to NCHW or NHWC."),
    "output_differs": (
        "The network's outputs are probabilities where the recipe says logits, or the reverse.",
        "Correct `output` in `[source]`.",
    ),
    "sigmoid_output": (
        "The network's outputs are those of a sigmoid.",
        'Set `output = "sigmoid"` above the first table, or correct `[source] output`.',
    ),
    "normalised_twice": (
        "The network normalises its pixels itself, and the recipe does so once more.",
        'Set `scale = "0..255"`, and remove mean and std.',
    ),
    "no_tensorflow_network": (
        "The recipe has no network for `--backend tf_trt`.",
        "Add a table `[tensorflow]` with mean and std of its own.",
    ),
    "untrusted_code": (
        "The recipe or network names code that the build would run.",
        "Read the code; add `--trust-code` if you trust it, or save the network without code.",
    ),
}

_NETWORKS = {
    "invalid_network": (
        "The network or its weights are not available, or do not fit the recipe.",
        "Do what the message says.",
    ),
    "network_not_found": ("There is no such network file or folder.", "Correct the path, or give NAME with a kind."),
    "unknown_network": ("The framework has no network of this name.", "Take a name of the message."),
    "network_not_loaded": (
        "The framework cannot load the network.",
        "Save it again with the version that is installed, in the form that the message names.",
    ),
    "network_failed": (
        "The network loads and does not run on an image.",
        "Check `crop_size` and `color`; the message has the framework's own.",
    ),
    "network_not_finite": ("The network itself returns NaN or infinity.", "Check weights and `[normalisation]`."),
    "not_exported": (
        "PyTorch or tf2onnx cannot export the network to ONNX.",
        'Export it yourself for kind = "onnx", or take a form that needs no ONNX.',
    ),
    "not_traced": ("PyTorch cannot trace the network.", "Remove code that depends on values of images."),
    "not_pytorch": ("The network is not one of PyTorch, which TorchScript needs.", "Take a form of the message."),
    "not_quantisable": ("The network has nothing to quantise.", "Build fp16."),
    "opset_too_old": ("The ONNX file's opset is too old for int8.", "Export it with a later opset."),
    "static_batch": ("The network takes batches of one size only.", "Export it with a dynamic batch."),
    "input_shape": ("The network's input is not a batch of images.", "Export it with [N, channels, height, width]."),
    "input_type": ("The network's input is not of floats.", "Export it without its own normalisation step."),
    "no_input": ("The network has no input for images.", "Export it with one."),
    "several_inputs": ("The network has several inputs.", "Export it with one, and constants for the others."),
    "output_shape": ("The output is not one value for each class.", "Take a classifier, with its last layer."),
    "output_type": ("The output is not of floats.", "Export the network without argmax behind it."),
    "several_outputs": ("The network has several outputs.", "Name one with `output_name`."),
    "unknown_output": ("There is no output of this name.", "Take a name of the message."),
    "unknown_weights": ("torchvision has no weights of this name.", "Take a name of the message."),
    "weights_differ": (
        "The weights are not those of the recipe: their digest differs.",
        "Delete and fetch them again.",
    ),
    "weights_not_found": ("The package with the weights is not installed.", "Install it, or give `--checkpoint`."),
    "weights_not_downloaded": (
        "The weights could not be downloaded.",
        "Download them where there is a network, or give `--checkpoint FILE`.",
    ),
    "checkpoint_not_found": ("There is no such checkpoint.", "Correct the path."),
    "checkpoint_missing": ("The artefact was built from a checkpoint.", "Name that file with `--checkpoint`."),
    "checkpoint_differs": (
        "The checkpoint does not fit the network: names or shapes differ.",
        "Name the network it was trained for, and the number of its classes.",
    ),
    "lfs_pointer": (
        "The file is the pointer that Git LFS leaves where it did not fetch the file itself.",
        "Run `git lfs pull` in its folder.",
    ),
    "invalid_checkpoint": (
        "The checkpoint is damaged, or holds more than weights.",
        "Save `network.state_dict()` alone.",
    ),
    "pickled_network": (
        "The file holds Python objects, whose loading would run code.",
        "Save `network.state_dict()`, and name the network with `--network`.",
    ),
    "no_safetensors": ("The folder has no model.safetensors.", "Save it with `safe_serialization=True`."),
    "invalid_program": ("The file is neither TorchScript nor torch.export.", "Save it with one of the two."),
    "module_failed": ("The recipe's Python function fails, or returns no module.", "Correct the function."),
    "keras_backend": ("Keras runs on another framework in this process.", "Start another process."),
    "tensorflow_missing": ("TensorFlow is not installed here.", "Use the environment of `make build-tensorflow`."),
    "tensorflow_only": (
        "The network needs TensorFlow itself and is not exported to ONNX.",
        "Build it with `--backend tf_trt`.",
    ),
}

_BUILDS = {
    "build_failed": ("A build failed. The repository is as it was.", "Do what the message says."),
    "parity": (
        "The artefact does not compute what the network computes, within the tolerance of its precision.",
        "Build a higher precision; for int8, give `--calibration` photos like yours.",
    ),
    "neighbours": (
        "An image's logits depend on the other images of its batch.",
        "Build with other parameters or another form; the message says by how much.",
    ),
    "run_failed": ("The artefact does not run in the process that checks it.", "Read the message: the runtime's."),
    "runtime_crashed": (
        "The runtime crashed while the artefact was checked.",
        "Build another precision or form; update the runtime or the driver.",
    ),
    "not_fp32": ("`--from-onnx` needs an ONNX file in fp32.", "Build `classifier_onnx` in fp32 first."),
    "not_built": ("The classifier is not built.", "Build it with the command of the message."),
    "not_served": ("The server serves another version.", "Choose it with `jpeg-build use`, then reload."),
    "artefact_differs": ("The file is not the one that was checked.", "Build it again."),
    "artefact_unreadable": ("The artefact cannot be read.", "Build it again."),
    "unknown_artefact": ("The file is not an artefact by its name.", "Give a backend, or a file of the message."),
    "invalid_photo": ("A photo for the check or the calibration cannot be decoded.", "Remove it from the folder."),
    "no_photos": ("The folder has no photos.", "Name a folder that has some."),
    "engines_did_not_run": (
        "TF-TRT made no engine, or TensorFlow ran instead of it.",
        "Read the message; `--no-trt` emits the plain SavedModel.",
    ),
    "tf_trt_missing": (
        "This TensorFlow has no TF-TRT.",
        "Use 2.17 from `make build-tensorflow`, on a machine with TensorRT.",
    ),
    "tensorrt_versions_differ": (
        "Two installed TensorRT versions do not go together.",
        "Install the same version of both.",
    ),
    "trtexec_missing": ("There is no trtexec on the PATH.", "Take `--tool polygraphy`, or NVIDIA's image."),
    "trtexec_failed": ("trtexec could not build the engine.", "Read the end of its output in the message."),
    "server_failed": ("The server that is compared does not answer.", "Check the address and the version."),
}

_REPOSITORY = {
    "invalid_repository": ("The model repository cannot be read or written.", "Correct what the message names."),
    "repository_busy": ("A jpeg-build or `jpeg-bench tune` works in this repository.", "Try again when it is done."),
    "model_exists": ("A model of this name exists.", "Remove it with `jpeg-build remove`, or choose another name."),
    "in_use": ("Other models use this one.", "Remove them first."),
    "pixels_differ": (
        "Two models take different pixels, so that one decoded image cannot serve both.",
        "Use two ensembles.",
    ),
    "settings_differ": (
        "Two versions need different settings, and Triton has one config for all versions.",
        "Build the candidate in another form.",
    ),
}

_EVALUATION = {
    "gate_failed": ("A gate failed: the accuracy is not what `--gate` requires.", "See the report."),
    "invalid_gate": ("`--gate` cannot be read.", "Correct it: the message says which part."),
    "invalid_table": ("The table of labels cannot be read.", "Correct the row that the message names."),
    "photos_missing": ("Photos of the table, or of the folder, do not exist.", "Correct the paths."),
    "results_busy": ("Another evaluation writes there.", "Wait, or name another folder with `--results`."),
    "results_unwritable": ("The results cannot be written.", "Name a folder that can be, with `--results`."),
}

_BENCH = {
    "measurement_failed": ("A measurement failed.", "Read the message."),
    "invalid_option": ("An option of `jpeg-bench` is wrong.", "Correct it."),
    "address_unknown": ("The server's address for a protocol is unknown.", "Set `--url`."),
    "backend_unknown": ("The classifier's backend is none of this project.", "Name another repository."),
    "ensemble_missing": ("The repository has no ensemble.", "Set `--model-repository`."),
    "candidate_failed": (
        "Settings that `jpeg-bench tune` tried cannot be served or measured.",
        "Nothing, if others could; otherwise read the message: it is the server's.",
    ),
    "config_changed": ("A config was edited while it was tuned.", "Tune again."),
    "limits_missed": (
        "`jpeg-bench tune` found no settings without failures and within `--p99-ms`.",
        "Raise the limit, or lower `--concurrency`.",
    ),
    "ceiling_failed": ("The limit of the machine cannot be measured.", "Read the message."),
    "too_few_points": ("Too few loads were below the peak for a fit.", "Lower `--peak-fraction`, or repeat it."),
    "latency_out_of_reach": ("An idle server takes longer than the limit.", "Raise `--p99-ms`."),
    "decode_timeout": ("No batch was decoded in time.", "Look at the machine's load."),
    "invalid_result_file": ("The file is not a result of this command.", "Give one that it wrote."),
    "not_grpc": ("The port does not speak gRPC.", "Give the gRPC port, usually 8001."),
    "protocol_unsupported": ("The tool does not support the protocol.", "Set `--protocol http`."),
    "statistics_missing": ("The server gives no statistics.", "Measure the server itself, not the gateway."),
    "tls_unsupported": ("The load generator has no TLS.", "Measure the server behind the gateway."),
    "tool_missing": ("An independent load generator is not on the PATH.", "Install it as the message says."),
    "tool_failed": ("The independent load generator failed.", "Read its output in the message."),
    "tool_timeout": ("The independent load generator did not finish in time.", "Run it with fewer requests."),
    "worker_crashed": ("A process of the measurement ended.", "Read stderr; look for a lack of memory."),
    "worker_timeout": ("A process of the measurement did not finish in time.", "Look at the machine's load."),
}

GROUPS: Mapping[str, Mapping[str, ReasonCode]] = {
    title: {code: ReasonCode(*entry) for code, entry in entries.items()}
    for title, entries in {
        "Images": _IMAGES,
        "Requests": _REQUESTS,
        "Client and connection": _CONNECTION,
        "Command lines and files": _COMMANDS,
        "Web application": _WEB,
        "Gateway": _GATEWAY,
        "Start of a server": _START,
        "Watched servers and probes": _WATCH,
        "Reload and restart": _RELOAD,
        "Check of the repository": _CHECK,
        "Recipes": _RECIPES,
        "Networks": _NETWORKS,
        "Builds": _BUILDS,
        "Models of a repository": _REPOSITORY,
        "Evaluation": _EVALUATION,
        "Measurements": _BENCH,
    }.items()
}
"""Codes by the subject under which a reader looks for them."""


def all_codes() -> dict[str, ReasonCode]:
    """Return every code."""
    return {code: entry for entries in GROUPS.values() for code, entry in entries.items()}
