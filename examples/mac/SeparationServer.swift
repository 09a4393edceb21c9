// Starts the server that lies in an app's bundle, and stops it with the app.
//
//     let server = try SeparationServer(executable: Bundle.main.url(
//         forResource: "separator", withExtension: nil, subdirectory: "separator")!)
//     let job = try await server.separate(recording, "a dog barking")
//     let target = try await server.stem("target", of: job)  // a wav of floats
//     server.stop()
//
// The executable is what PyInstaller makes of examples/mac/separator.py.

import Foundation

final class SeparationServer {
    struct Address: Decodable { let port: Int; let token: String?; let url: URL }
    struct File: Decodable { let id: String }
    struct Problem: Decodable { struct Body: Decodable { let message: String }; let error: Body }
    struct Job: Decodable {
        let id: String, status: String, error: Problem.Body?
        var hasEnded: Bool { ["done", "failed", "cancelled"].contains(status) }
    }
    struct Failure: LocalizedError { let errorDescription: String? }

    private let process = Process(), input = Pipe(), output = Pipe()
    private let address: Address, token = UUID().uuidString

    /// Starts it at a free port, which it tells in one line of JSON, the only one it prints.
    init(executable: URL, models: URL? = nil) throws {
        process.executableURL = executable
        process.arguments = ["--port", "0", "--announce", "--exit-with-stdin", "--no-ui"]
        var environment = ProcessInfo.processInfo.environment
        environment["SAM_AUDIO_TOKEN"] = token  // arguments can be seen by others
        if let models { environment["SAM_AUDIO_HOME"] = models.path }
        process.environment = environment
        process.standardInput = input  // closed with this app, whatever becomes of it
        process.standardOutput = output
        try process.run()
        var line = Data()
        while let byte = try output.fileHandleForReading.read(upToCount: 1), byte != Data([10]) {
            guard !byte.isEmpty else { break }
            line += byte
        }
        guard let told = try? JSONDecoder().decode(Address.self, from: line) else {
            throw Failure(errorDescription: "the server did not start: its stderr says why")
        }
        address = told
    }

    func stop() {
        try? input.fileHandleForWriting.close()
        process.waitUntilExit()
    }

    /// Uploads a recording, and waits for a job of it; `progress` gets fractions of the work.
    func separate(_ recording: URL, _ description: String,
                  progress: (Double) -> Void = { _ in }) async throws -> Job {
        var upload = request("POST", "v1/files?name=\(recording.lastPathComponent.escaped)")
        upload.setValue("application/octet-stream", forHTTPHeaderField: "Content-Type")
        let (sent, answer) = try await URLSession.shared.upload(for: upload, fromFile: recording)
        let file: File = try decoded(sent, answer)
        var wanted = request("POST", "v1/jobs")
        wanted.setValue("application/json", forHTTPHeaderField: "Content-Type")
        wanted.httpBody = try JSONSerialization.data(withJSONObject: [
            "input": ["file": file.id], "description": description])
        var job: Job = try await fetched(wanted)
        let (events, _) = try await URLSession.shared.bytes(
            for: request("GET", "v1/jobs/\(job.id)/events"))
        for try await line in events.lines where line.hasPrefix("data: ") {
            let data = Data(line.dropFirst(6).utf8)
            let values = try JSONSerialization.jsonObject(with: data) as? [String: Any]
            if let fraction = values?["fraction"] as? Double { progress(fraction) }
        }
        job = try await fetched(request("GET", "v1/jobs/\(job.id)"))
        if job.status != "done" {
            throw Failure(errorDescription: job.error?.message ?? "the job was \(job.status)")
        }
        return job
    }

    func stem(_ name: String, of job: Job) async throws -> Data {
        let wanted = request("GET", "v1/jobs/\(job.id)/stems/\(name).wav")
        let (data, answer) = try await URLSession.shared.data(for: wanted)
        guard (answer as? HTTPURLResponse)?.statusCode == 200 else { throw problem(data) }
        return data
    }

    private func request(_ method: String, _ path: String) -> URLRequest {
        var made = URLRequest(url: URL(string: path, relativeTo: address.url)!)
        made.httpMethod = method
        made.timeoutInterval = 24 * 3600  // a job of a long recording
        made.setValue("Bearer \(token)", forHTTPHeaderField: "Authorization")
        return made
    }

    private func fetched<Value: Decodable>(_ request: URLRequest) async throws -> Value {
        let (data, answer) = try await URLSession.shared.data(for: request)
        return try decoded(data, answer)
    }

    private func decoded<Value: Decodable>(_ data: Data, _ answer: URLResponse) throws -> Value {
        guard let code = (answer as? HTTPURLResponse)?.statusCode, code < 300 else {
            throw problem(data)
        }
        return try JSONDecoder().decode(Value.self, from: data)
    }

    /// The server's errors are sentences for people.
    private func problem(_ data: Data) -> Failure {
        let told = try? JSONDecoder().decode(Problem.self, from: data)
        return Failure(errorDescription: told?.error.message)
    }
}

private extension String {
    var escaped: String { addingPercentEncoding(withAllowedCharacters: .alphanumerics) ?? "" }
}
