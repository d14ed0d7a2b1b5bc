import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs many of Kafka's command line tools in one JVM, since starting a JVM costs more than what most
 * tools do.
 *
 * <p>Standard input: one run a line, its fields in base64 between spaces: class, standard input,
 * arguments. Standard output: one line a run: exit code, standard output, standard error (base64). A
 * run that does not end within a minute is answered with exit code 124, and so is each that follows
 * it. Needs --add-opens java.base/java.lang=ALL-UNNAMED.
 */
public final class ToolRunner {
    private static final long TIMEOUT_MS = 60_000;

    /**
     * One run's exit code: the first one counts, and the thread that asked for it goes no further,
     * as if the JVM had ended.
     */
    private static final class Outcome {
        private final CountDownLatch ended = new CountDownLatch(1);
        private volatile int code = 124;

        synchronized void end(int value) {
            if (ended.getCount() == 0) return;
            code = value;
            ended.countDown();
        }

        void exit(int value) {
            end(value);
            while (true) LockSupport.park();
        }
    }

    /**
     * Scala's Console and the loggers keep the stream they saw first: so that stays, and its target
     * changes.
     */
    private static final class Switch extends OutputStream {
        private OutputStream target = new ByteArrayOutputStream();

        synchronized ByteArrayOutputStream fresh() {
            ByteArrayOutputStream next = new ByteArrayOutputStream();
            target = next;
            return next;
        }

        @Override
        public synchronized void write(int b) throws java.io.IOException {
            target.write(b);
        }

        @Override
        public synchronized void write(byte[] b, int off, int len) throws java.io.IOException {
            target.write(b, off, len);
        }
    }

    private static String decode(String field) {
        return new String(Base64.getDecoder().decode(field.substring(1)), StandardCharsets.UTF_8);
    }

    private static String encode(ByteArrayOutputStream bytes) {
        return "=" + Base64.getEncoder().encodeToString(bytes.toByteArray());
    }

    /** The console consumer counts what it has read in a static field, from one run to the next. */
    private static void resetStatics() {
        try {
            Class<?> consumer = Class.forName("org.apache.kafka.tools.consumer.ConsoleConsumer");
            Field count = consumer.getDeclaredField("messageCount");
            count.setAccessible(true);
            count.setInt(null, 0);
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException(e);
        }
    }

    /**
     * What a tool left to be run at the end of the JVM; VerifiableProducer flushes and prints its
     * sums there.
     */
    private static List<Thread> takeRuntimeHooks() throws ReflectiveOperationException {
        Field field = Class.forName("java.lang.ApplicationShutdownHooks").getDeclaredField("hooks");
        field.setAccessible(true);
        Map<?, ?> hooks = (Map<?, ?>) field.get(null);
        List<Thread> taken = new ArrayList<>();
        for (Object hook : hooks.keySet()) taken.add((Thread) hook);
        hooks.clear();
        return taken;
    }

    private static int call(String className, String[] args) {
        try {
            Class.forName(className).getMethod("main", String[].class).invoke(null, (Object) args);
            return 0;
        } catch (InvocationTargetException e) {
            e.getCause().printStackTrace();
            return 1;
        } catch (ReflectiveOperationException e) {
            e.printStackTrace();
            return 1;
        }
    }

    public static void main(String[] unused) throws Exception {
        PrintStream answers = System.out;
        Switch out = new Switch();
        Switch err = new Switch();
        System.setOut(new PrintStream(out, true));
        System.setErr(new PrintStream(err, true));
        BufferedReader in =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        boolean stuck = false;
        takeRuntimeHooks();
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            List<String> fields = new ArrayList<>();
            for (String field : line.split(" ")) fields.add(decode(field));
            byte[] input = fields.get(1).getBytes(StandardCharsets.UTF_8);
            System.setIn(new ByteArrayInputStream(input));
            ByteArrayOutputStream stdout = out.fresh();
            ByteArrayOutputStream stderr = err.fresh();
            Outcome outcome = new Outcome();
            if (!stuck) {
                resetStatics();
                Exit.setExitProcedure((code, message) -> outcome.exit(code));
                Exit.setHaltProcedure((code, message) -> outcome.exit(code));
                List<Runnable> hooks = new ArrayList<>();
                Exit.setShutdownHookAdder((name, hook) -> hooks.add(hook));
                String[] args = fields.subList(2, fields.size()).toArray(new String[0]);
                Thread run = new Thread(() -> outcome.end(call(fields.get(0), args)));
                run.setDaemon(true);
                run.start();
                stuck = !outcome.ended.await(TIMEOUT_MS, TimeUnit.MILLISECONDS);
                hooks.forEach(Runnable::run);
                takeRuntimeHooks().forEach(Thread::run);
            }
            System.out.flush();
            System.err.flush();
            answers.println(outcome.code + " " + encode(stdout) + " " + encode(stderr));
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }
}
