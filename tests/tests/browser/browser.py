"""Chromium without a window, for tests of pages. It precedes the test's own script.

It speaks the DevTools protocol over two pipes: JSON messages, each with a zero byte at its end.
"""
import base64, json, os, subprocess, sys, time


class Browser:
    def __init__(self, profile):
        requests, self.requests = os.pipe()
        self.answers, answers = os.pipe()

        def pass_pipes():
            # The browser reads from 3 and writes to 4.
            read, write = os.dup(requests), os.dup(answers)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            ['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run',
             '--disable-background-networking', '--disable-component-update', '--disable-sync',
             '--remote-debugging-pipe', f'--user-data-dir={profile}', 'about:blank'],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=pass_pipes)
        os.close(requests)
        os.close(answers)
        self.received, self.count, self.session, self.complaints = b'', 0, {}, []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self.session = {'sessionId': attached['sessionId']}
        for domain in ['Page', 'Log', 'Runtime', 'Network']:
            self.call(f'{domain}.enable')
        self.call('Emulation.setScrollbarsHidden', hidden=True)

    def call(self, method, **parameters):
        self.count += 1
        message = {'id': self.count, 'method': method, 'params': parameters, **self.session}
        os.write(self.requests, json.dumps(message).encode() + b'\0')
        while True:
            answer = self.receive()
            if answer.get('id') == self.count:
                assert 'error' not in answer, (method, answer)
                return answer['result']
            if answer['method'] in ['Log.entryAdded', 'Runtime.exceptionThrown']:
                self.complaints.append(answer['params'])

    def receive(self):
        while b'\0' not in self.received:
            bytes = os.read(self.answers, 1 << 20)
            assert bytes, 'the browser has ended'
            self.received += bytes
        message, self.received = self.received.split(b'\0', 1)
        return json.loads(message)

    def value(self, expression):
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def until(self, expression):
        end = time.monotonic() + 20
        while not self.value(expression):
            assert time.monotonic() < end, (expression, self.value('document.body.innerText'))
            time.sleep(0.05)

    def show(self, folder, name, width, scheme):
        """Takes a screenshot, and returns the colour of the background."""
        self.call('Emulation.setDeviceMetricsOverride',
                  width=width, height=800, deviceScaleFactor=1, mobile=False)
        self.call('Emulation.setEmulatedMedia',
                  features=[{'name': 'prefers-color-scheme', 'value': scheme}])
        over = self.value(
            'document.documentElement.scrollWidth - document.documentElement.clientWidth')
        assert over == 0, f'{name}: {over} pixels too wide'
        image = self.call('Page.captureScreenshot', captureBeyondViewport=True)['data']
        with open(f'{folder}/{name}.png', 'wb') as file:
            file.write(base64.b64decode(image))
        return self.value('getComputedStyle(document.body).backgroundColor')


