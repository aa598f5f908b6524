import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateException;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.InvalidKeySpecException;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.Collection;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManager;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509ExtendedTrustManager;

/** A device on JSSE, with the command line and the steps of device.c. */
public final class Device {
    static final int BURST = 64 * 1024;
    static final int BULK = 1024 * 1024;

    final int port;
    final String version;
    final Counting trust;
    final SSLContext context;
    SSLSocket tls;
    InputStream in;
    OutputStream out;

    Device(String[] args) throws Exception {
        port = Integer.parseInt(args[0]);
        version = "TLSv" + args[4];
        KeyStore roots = KeyStore.getInstance(KeyStore.getDefaultType());
        roots.load(null, null);
        roots.setCertificateEntry("ca", certificates(args[1])[0]);
        TrustManagerFactory trusts = TrustManagerFactory.getInstance("PKIX");
        trusts.init(roots);
        trust = new Counting((X509ExtendedTrustManager) trusts.getTrustManagers()[0]);
        KeyStore own = KeyStore.getInstance(KeyStore.getDefaultType());
        own.load(null, null);
        if (!args[2].equals("-")) {
            own.setKeyEntry("own", key(args[3]), new char[0], certificates(args[2]));
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(own, new char[0]);
        context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), new TrustManager[] {trust}, null);
    }

    static Certificate[] certificates(String path) throws Exception {
        try (InputStream file = new FileInputStream(path)) {
            Collection<? extends Certificate> all =
                    CertificateFactory.getInstance("X.509").generateCertificates(file);
            return all.toArray(new Certificate[0]);
        }
    }

    static PrivateKey key(String path) throws Exception {
        String pem = Files.readString(Path.of(path)).replaceAll("-----[^-]+-----", "");
        PKCS8EncodedKeySpec spec = new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(pem));
        try {
            return KeyFactory.getInstance("EC").generatePrivate(spec);
        } catch (InvalidKeySpecException notEc) {
            return KeyFactory.getInstance("RSA").generatePrivate(spec);
        }
    }

    /** Counts the chains that are verified: a resumed session has none. */
    static final class Counting extends X509ExtendedTrustManager {
        final X509ExtendedTrustManager inner;
        int verified;

        Counting(X509ExtendedTrustManager inner) {
            this.inner = inner;
        }

        @Override
        public void checkServerTrusted(X509Certificate[] chain, String type, Socket socket)
                throws CertificateException {
            verified++;
            inner.checkServerTrusted(chain, type, socket);
        }

        @Override
        public void checkServerTrusted(X509Certificate[] chain, String type, SSLEngine engine)
                throws CertificateException {
            inner.checkServerTrusted(chain, type, engine);
        }

        @Override
        public void checkServerTrusted(X509Certificate[] chain, String type) throws CertificateException {
            inner.checkServerTrusted(chain, type);
        }

        @Override
        public void checkClientTrusted(X509Certificate[] chain, String type, Socket socket) {}

        @Override
        public void checkClientTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}

        @Override
        public void checkClientTrusted(X509Certificate[] chain, String type) {}

        @Override
        public X509Certificate[] getAcceptedIssuers() {
            return inner.getAcceptedIssuers();
        }
    }

    void connect() throws Exception {
        trust.verified = 0;
        Socket tcp = new Socket(InetAddress.getLoopbackAddress(), port);
        tcp.setSoTimeout(30_000);
        tcp.setTcpNoDelay(true);
        tls = (SSLSocket) context.getSocketFactory().createSocket(tcp, "localhost", port, true);
        SSLParameters parameters = tls.getSSLParameters();
        parameters.setProtocols(new String[] {version});
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        tls.setSSLParameters(parameters);
        tls.startHandshake();
        in = tls.getInputStream();
        out = tls.getOutputStream();
    }

    void send(String text) throws IOException {
        out.write(text.getBytes());
    }

    void expect(String text) throws IOException {
        String found = new String(in.readNBytes(text.length()));
        if (!found.equals(text)) throw new IOException("found " + found);
    }

    static byte[] transfer(int length) {
        byte[] bytes = new byte[length];
        for (int i = 0; i < length; i++) bytes[i] = (byte) ((i * 0x9e3779b1) >>> 24);
        return bytes;
    }

    void receive(int length) throws IOException {
        if (!java.util.Arrays.equals(in.readNBytes(length), transfer(length))) {
            throw new IOException("other bytes than expected");
        }
    }

    void step(String name) throws Exception {
        switch (name) {
            case "connect" -> connect();
            case "echo" -> {
                send("echo\n");
                expect("echo\n");
                System.out.println(trust.verified == 0 ? "resumed" : "full");
            }
            case "burst" -> {
                send("burst\n");
                receive(BURST);
            }
            case "bulk" -> {
                send("download\n");
                receive(BULK);
                send("upload\n");
                out.write(transfer(BULK));
                expect("ok\n");
            }
            case "half-close" -> {
                send("collect\n");
                send("the last reading\n");
                tls.shutdownOutput();
                expect("17\n");
                if (in.read() != -1) throw new IOException("bytes after the end");
            }
            case "pause" -> {
                System.out.println("paused");
                System.in.read();
            }
            case "close" -> tls.close();
            default -> throw new IOException("unknown");
        }
    }

    public static void main(String[] args) throws Exception {
        Device device = new Device(args);
        for (int i = 6; i < args.length; i++) {
            try {
                device.step(args[i]);
            } catch (Exception failure) {
                System.out.println("FAILED " + args[i] + ": " + failure);
                System.exit(1);
            }
        }
    }
}
