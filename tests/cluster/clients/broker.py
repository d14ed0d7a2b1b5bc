"""Starts one broker for the length of a run: fluxmq, or Apache Kafka as the control.

Both get the same stock KRaft server.properties. Only the process that was started here is ended.
"""
import contextlib
import os
import socket
import subprocess
import time

CLUSTER_ID = "Zmx1eG1xLWNsaWVudC1tYQ"
START_SECONDS_MAX = 40
STOP_SECONDS_MAX = 20


def server_properties(directory):
    """Writes the file; returns its path and the address that clients use."""
    ports = free_ports(2)
    lines = f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{ports[1]}
listeners=PLAINTEXT://127.0.0.1:{ports[0]},CONTROLLER://127.0.0.1:{ports[1]}
advertised.listeners=PLAINTEXT://127.0.0.1:{ports[0]}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={directory}/data
num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=false
"""
    path = os.path.join(directory, "server.properties")
    with open(path, "w", encoding="utf-8") as f:
        f.write(lines)
    return path, f"127.0.0.1:{ports[0]}"


def free_ports(count):
    """Ports that the system chose, all different, closed again for the broker to have."""
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in bound:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in bound]


@contextlib.contextmanager
def running(argv, address, log_path, env=None):
    """Serves for the length of the block, once the address accepts connections."""
    with open(log_path, "ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                   env=env, start_new_session=True)
    try:
        wait_for(process, address, log_path)
        yield address
    finally:
        died = process.poll()
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if died is not None:
            raise SystemExit(f"the broker died with status {died} during the run: {log_path}")


def wait_for(process, address, log_path):
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), 1).close()
            return
        time.sleep(0.05)
    raise SystemExit(f"the broker does not serve {address}: see {log_path}")


def fluxmq(binary, directory):
    path, address = server_properties(directory)
    with open(path, "a", encoding="utf-8") as f:
        f.write("workers=2\nmetrics.listener=none\n")
    return running([os.path.abspath(binary), "server", "--config", path], address,
                   os.path.join(directory, "server.log"))


def kafka(lib, directory):
    path, address = server_properties(directory)
    log_path = os.path.join(directory, "server.log")
    log4j = os.path.join(directory, "log4j2.yaml")
    with open(log4j, "w", encoding="utf-8") as f:
        f.write("""Configuration:
  Appenders: {Console: {name: STDOUT, PatternLayout: {pattern: "[%d] %p %m (%c)%n"}}}
  Loggers: {Root: {level: INFO, AppenderRef: [{ref: STDOUT}]}}
""")
    java = ["java", "-Xmx768m", f"-Dlog4j2.configurationFile={log4j}",
            "-cp", os.path.join(os.path.abspath(lib), "*")]
    with open(log_path, "ab") as log:
        subprocess.run(java + ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", path],
                       stdout=log, stderr=log, check=True)
    return running(java + ["kafka.Kafka", path], address, log_path)
